"""The memory of tensors while a graph runs: how much lives at once, and the order of operators that needs least."""

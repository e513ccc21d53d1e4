"""The batch of a graph that was lowered at a fixed one: where it lies in every tensor, and how it becomes free."""

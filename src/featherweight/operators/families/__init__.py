"""The records of the operators, and their definitions, by family."""

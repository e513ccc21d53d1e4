"""The form of every operator: what is decided, in which order, and why."""

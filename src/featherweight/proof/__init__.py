"""Whether everything that runs a file computes the same integers, each runtime in a process of its own."""

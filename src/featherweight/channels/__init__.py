"""Which channels go together, which are always zero, and how they are cut out of a graph."""

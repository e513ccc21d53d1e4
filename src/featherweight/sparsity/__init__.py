"""What sparse weights look like: the patterns of their zeros, and the layouts that patterns are counted in."""

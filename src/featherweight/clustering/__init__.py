"""Weights on few values: the best ones for a kernel, and weights rounded to them."""

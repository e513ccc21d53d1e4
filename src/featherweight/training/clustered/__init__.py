"""Weights on few values in training: clusters move as one."""

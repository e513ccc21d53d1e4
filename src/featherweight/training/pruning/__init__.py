"""Pruning while training: an optimizer that holds the zeros."""

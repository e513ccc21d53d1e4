"""Optimizers around other ones."""

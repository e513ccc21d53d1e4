"""Repairs: what is done to a float graph and its plan so that the integers lose less, each held against real runs."""

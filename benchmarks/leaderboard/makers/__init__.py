"""How each peer makes a file, as its documentation says; every module runs in its peer's own environment.

A maker is a module with `make(inputs, samples, out, **settings) -> Made`. What it imports at its top is loaded before
the clock starts.
"""

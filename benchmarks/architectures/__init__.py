"""The models that people have: what each of them becomes in every recipe.

`python -m benchmarks.architectures` lowers and quantizes the roster, or a part of it; `--help` says how to choose.
"""

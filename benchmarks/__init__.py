"""Side by side with the peers: every figure that featherweight promises, measured in one run.

`python -m benchmarks` runs all rows; `python -m benchmarks --help` says how to choose.
"""

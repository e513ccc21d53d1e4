"""The leaderboard: every peer that can be installed on every network that is at hand, a cell each.

`make leaderboard` fills the cells that are missing and writes the page; `python -m benchmarks.leaderboard --help` says
how to choose. A cell is one network, one way of making it small, one draw of samples.
"""

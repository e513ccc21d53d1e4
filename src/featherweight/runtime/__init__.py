"""Runs models: `Session` and `run` on LiteRT, what counts as a sample, and `benchmark`."""

from __future__ import annotations

from featherweight.runtime.batches import Feed
from featherweight.runtime.benchmark import Latency, benchmark
from featherweight.runtime.litert import RESOLVERS, Session, default_threads, run
from featherweight.runtime.progress import track
from featherweight.runtime.samples import as_feeds, feeds

__all__ = [
    "RESOLVERS",
    "Feed",
    "Latency",
    "Session",
    "as_feeds",
    "benchmark",
    "default_threads",
    "feeds",
    "run",
    "track",
]

"""Runs models: `Session` on LiteRT, `run` on it or on the reference kernels, what counts as a sample, `benchmark`."""

from __future__ import annotations

from featherweight.runtime.batches import Feed
from featherweight.runtime.benchmark import Latency, benchmark
from featherweight.runtime.litert import RESOLVERS, Session, default_threads
from featherweight.runtime.progress import track
from featherweight.runtime.reference import run_reference
from featherweight.runtime.running import run
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
    "run_reference",
    "track",
]

"""The ``.tflite`` file format: `read` it into a `Model`, `write` a `Model` back, with no code per operator."""

from __future__ import annotations

from featherweight.tflite.reader import outside, read, release_pages
from featherweight.tflite.writer import save, write, write_atomically

__all__ = ["outside", "read", "release_pages", "save", "write", "write_atomically"]

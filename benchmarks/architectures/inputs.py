"""Inputs that look like data: images that are smooth, texts of frequent and rare words, sums of tones."""

from __future__ import annotations

import numpy as np

_GRID = 6


def images(count: int, size: int, seed: int = 0, channels_last: bool = False, channels: int = 3) -> np.ndarray:
    """Returns smooth random fields with a little noise, of about unit variance: (n, c, h, w), or (n, h, w, c)."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(-2, 2, (count, channels, _GRID, _GRID)) + random.uniform(-1, 1, (count, channels, 1, 1))
    place = np.linspace(0, _GRID - 1, size)
    low = np.minimum(place.astype(int), _GRID - 2)
    part = place - low
    spread = np.zeros((size, _GRID))
    spread[np.arange(size), low], spread[np.arange(size), low + 1] = 1 - part, part
    fields = spread @ coarse @ spread.T + random.normal(0, 0.05, (count, channels, size, size))
    return (np.moveaxis(fields, 1, -1) if channels_last else fields).astype(np.float32)


def tokens(count: int, length: int, vocabulary: int, seed: int = 0, first: int = 3) -> np.ndarray:
    """Returns ids (n, length) int32 by Zipf's law, from `first` on."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocabulary - first + 1)
    return random.choice(np.arange(first, vocabulary), (count, length), p=weights / weights.sum()).astype(np.int32)


def masks(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Returns (n, length) int32: 1 for words, then 0 for padding; from a third of the length to all of it is words."""
    random = np.random.default_rng(seed)
    return (np.arange(length) < random.integers(length // 3, length + 1, (count, 1))).astype(np.int32)


def waves(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Returns (n, length) float32 of unit variance: three tones with a slow envelope, and noise."""
    random = np.random.default_rng(seed)
    time = np.arange(length) / 16_000
    tones = np.sin(2 * np.pi * random.uniform(100, 3000, (count, 3, 1)) * time + random.uniform(0, 6, (count, 3, 1)))
    envelope = 1 + 0.5 * np.sin(2 * np.pi * random.uniform(5, 40, (count, 1)) * time)
    wave = (tones * random.uniform(0.2, 1, (count, 3, 1))).sum(1) * envelope + random.normal(0, 0.05, (count, length))
    return (wave / wave.std(1, keepdims=True)).astype(np.float32)


def mels(count: int, bins: int, frames: int, seed: int = 0) -> np.ndarray:
    """Returns what a log-mel spectrogram looks like after normalization: (n, bins, frames)."""
    smooth = images(count, max(bins, frames), seed, channels=1)
    return smooth[:, 0, :bins, :frames]

"""What measurements depend on, as fingerprints: what is kept in a folder goes with the same ones only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from featherweight.graph import Model
from featherweight.repair.candidate import Setting
from featherweight.tflite import write
from featherweight.version import package_version


def fingerprints(setting: Setting, models: Iterable[Model], settings: object) -> dict[str, str]:
    """Returns what changes when a model, a sample, the target, one of the settings or this package does.

    Args:
        setting: has the samples and the target.
        models: all float graphs that matter.
        settings: anything else, told by its representation.
    """
    samples, files = hashlib.sha256(), hashlib.sha256()
    for feed in (*setting.samples, *setting.held_out):
        for name, values in feed.items():
            samples.update(name.encode() + str(values.shape).encode() + np.ascontiguousarray(values).tobytes())
    # Each file once: a model that was read from a folder is another object than the one that it is equal to.
    for digest in dict.fromkeys(hashlib.sha256(write(model)).digest() for model in models):
        files.update(digest)
    return {
        "model": files.hexdigest(),
        "samples": samples.hexdigest(),
        "target": hashlib.sha256(repr(setting.target).encode()).hexdigest() + f" {setting.target.name}",
        "settings": repr(settings),
        "version": package_version(),
    }

"""Samples that are alike go to one half."""

from __future__ import annotations

import numpy as np
from tests import models

from featherweight.repair.weights.alike import alternating


def test_variants_of_one_sample_stay_together():
    model = models.lowered("convnet")
    name, shape = next((n, s[1:]) for n, s in models.input_shapes("convnet").items())
    random = np.random.default_rng(0)
    bases = random.normal(size=(8, *shape)) * 2
    kinds = np.repeat(np.arange(8), 6)
    order = random.permutation(48)
    samples = [
        {name: (bases[k] + random.normal(scale=0.02, size=shape))[None].astype(np.float32)} for k in kinds[order]
    ]
    kind = {id(sample[name]): int(k) for sample, k in zip(samples, kinds[order], strict=True)}
    found = alternating(model, samples)
    assert {id(sample[name]) for sample in found} == set(kind)
    counts = [np.bincount([kind[id(sample[name])] for sample in found[half::2]], minlength=8) for half in (0, 1)]
    assert sum(counts[0]) == sum(counts[1])
    assert sum(int(min(a, b)) for a, b in zip(*counts, strict=True)) <= 8  # by chance, about 18


def test_few_samples_stay_in_their_order():
    samples = models.samples("convnet", 3)
    assert alternating(models.lowered("convnet"), samples) == samples

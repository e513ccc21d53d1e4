"""Files of the row of repairs; run as jobs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


def repair(
    model: str, out: str, samples: str, recipe: str, improve: str | None, target: str = "litert"
) -> dict[str, Any]:
    """Quantizes with repairs; returns the seconds and what the plan says of the repairs."""
    import featherweight as fw

    fed = list(np.load(samples))
    start = time.perf_counter()
    made = fw.quantize(
        model, recipe, calibration=fed, target=target, improve=improve, io="float32", verify=False, progress=False
    )
    seconds = time.perf_counter() - start
    made.save(out)
    return {"seconds": seconds, "notes": [note for note in made.plan.notes if note.startswith("improve")]}


def quantize_ai_edge(model: str, out: str, samples: str, algorithm: str, bits: int = 8) -> dict[str, Any]:
    """Quantizes weights of so many bits and int8 activations by an algorithm of ai-edge-quantizer."""
    from benchmarks import peers

    start = time.perf_counter()
    peers.ai_edge_static(model, list(np.load(samples)), out, algorithm, bits)
    return {"seconds": time.perf_counter() - start}

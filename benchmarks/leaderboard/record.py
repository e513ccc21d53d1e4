"""What is measured: networks, ways of making them small, and the files that a cell is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

Judged = Literal["labels", "agreement", "levels"]


@dataclass(frozen=True)
class Net:
    """A network.

    Attributes:
        name: in files and on the command line.
        title: for people.
        judged: by labels, by agreement with the float network's classes, or by the levels of its outputs alone.
        prepare: from the folder of users' models, or None, to its inputs by draw.
        draws: draws of calibration samples.
        has_training: whether there are images and labels to train with.
        about: where network and samples are from.
    """

    name: str
    title: str
    judged: Judged
    prepare: Callable[[Path | None], list[Inputs]]
    draws: int = 1
    has_training: bool = False
    about: str = ""


@dataclass(frozen=True)
class Inputs:
    """The files that every way is given for one network and draw.

    Attributes:
        model: the float `.tflite`.
        samples: calibration samples, `.npy` of (count, 1, …).
        test: `.npz` with ``x`` of (count, …), and ``y`` and ``group`` where there are labels and groups.
        keras: a `.keras` or `.h5` file of the same network, empty where there is none.
        weights: `.npz` of its weights in Keras's order, for tools that need Keras 2, and with it:
        network: its name in `benchmarks.networks`.
        seed: the draw.
    """

    model: str
    samples: str
    test: str
    keras: str = ""
    weights: str = ""
    network: str = ""
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)


@dataclass(frozen=True)
class Way:
    """One tool with its settings.

    Attributes:
        name: in files and on the command line.
        peer: the tool, for people.
        form: what is stored and computed: ``int8``, ``w4a8``, ``dynamic`` …; ways of one form are rivals.
        settings: in words; ``defaults`` where nothing is set.
        maker: a module of `benchmarks.leaderboard.makers`.
        arguments: of its `make`.
        needs: what it starts from.
        backend: of Keras.
        environment: ``main``, or the name of what `make setup-NAME` makes.
        packages: whose versions decide what it makes.
        suffix: of what it writes; all but `.tflite` runs in the peer's own runtime.
        trains: with labels, so that it may beat the float network.
    """

    name: str
    peer: str
    form: str
    settings: str
    maker: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: Literal["tflite", "keras", "keras 2", "flax"] = "tflite"
    backend: str = "jax"
    environment: str = "main"
    packages: tuple[str, ...] = ()
    suffix: str = ".tflite"
    trains: bool = False


@dataclass(frozen=True)
class Made:
    """What a maker returns beside the file that it wrote.

    Attributes:
        simulate: the tool's own idea of what the file computes: examples (n, …) → outputs (n, …); None where it has no
            such idea.
        run: the file in the tool's own runtime; None where LiteRT runs it.
        notes: what the tool said that matters.
    """

    simulate: Callable[[np.ndarray], np.ndarray] | None = None
    run: Callable[[np.ndarray], np.ndarray | list[np.ndarray]] | None = None
    notes: tuple[str, ...] = ()

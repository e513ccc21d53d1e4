"""The ways of making a network small: each peer with its defaults, and with the best that its documentation names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.leaderboard.record import Inputs, Net, Way

OURS = "featherweight"
_DEFAULTS = "defaults"
_STEPS, _RATE = 900, 1e-4
# w4a8 by the tutorial of training: labels and a teacher, learned ranges.
_FOUR_BITS = {"steps": 1500, "learning_rate": 5e-4, "teacher": True, "train_ranges": "learned"}
_OWN = ("featherweight", "ai-edge-litert", "numpy")
_AEQ = Way(
    "",
    "ai-edge-quantizer",
    "int8",
    _DEFAULTS,
    "ai_edge",
    packages=("ai-edge-quantizer", "ai-edge-litert"),
)
_TF = Way(
    "",
    "TensorFlow converter",
    "int8",
    _DEFAULTS,
    "tensorflow_converter",
    needs="keras",
    backend="tensorflow",
    packages=("tensorflow", "keras"),
)
_KERAS = Way(
    "",
    "Keras",
    "dynamic",
    "",
    "keras_quantize",
    {"mode": "int8"},
    needs="keras",
    packages=("keras", "tensorflow", "torch", "litert-torch"),
)


def _mct(name: str, settings: str, /, **arguments: object) -> Way:
    packages = ("model-compression-toolkit", "tensorflow-cpu")
    return Way(
        name, "MCT", "int8", settings, "sony_mct", arguments, needs="keras 2", environment="mct", packages=packages
    )


def _nncf(name: str, settings: str, /, **arguments: object) -> Way:
    packages = ("nncf", "openvino")
    return Way(
        name, "NNCF", "int8", settings, "openvino_nncf", arguments, environment="nncf", packages=packages, suffix=".xml"
    )


def _own(name: str, form: str, settings: str, /, **arguments: object) -> Way:
    training = {"needs": "keras", "trains": True} if "train" in arguments else {}
    return Way(name, OURS, form, settings, "own", {"recipe": form, **arguments}, packages=_OWN, **training)  # type: ignore[arg-type]


def _ai_edge(name: str, form: str, settings: str, /, **arguments: object) -> Way:
    return replace(_AEQ, name=name, form=form, settings=settings, arguments=arguments)


_LIST = (
    Way("float", "float", "float32", "the float file", "unchanged"),
    _own("own-int8", "int8", _DEFAULTS),
    _own("own-int8-auto", "int8", 'improve="auto"', improve="auto"),
    replace(_TF, name="tensorflow-int8", arguments={"form": "int8"}),
    _ai_edge("ai-edge-int8", "int8", _DEFAULTS, form="int8"),
    _ai_edge("ai-edge-int8-octav", "int8", "OCTAV", algorithm="OCTAV"),
    _ai_edge("ai-edge-int8-mse", "int8", "MSE", algorithm="MSE"),
    _mct("mct-int8", _DEFAULTS),
    _mct("mct-int8-gradients", "gradient-based (GPTQ), 5 epochs", gradients=True),
    _nncf("nncf-int8", f"{_DEFAULTS}, in OpenVINO"),
    _nncf("nncf-int8-accurate", "accurate bias correction, mixed preset, in OpenVINO", accurate=True),
    Way(
        "qwix-int8",
        "qwix",
        "int8",
        "static ranges of all samples, exported by litert-converter",
        "flax_qwix",
        needs="flax",
        environment="qwix",
        packages=("qwix", "flax", "jax", "litert-converter"),
    ),
    Way(
        "tfmot-int8",
        "TFMOT",
        "int8",
        f"trained: {_STEPS} steps",
        "tfmot",
        {"steps": _STEPS, "learning_rate": _RATE},
        needs="keras 2",
        environment="tfmot",
        packages=("tensorflow-model-optimization", "tensorflow-cpu", "tf-keras"),
        trains=True,
    ),
    _own("own-int8-trained", "int8", f"trained: {_STEPS} steps", train={"steps": _STEPS, "learning_rate": _RATE}),
    _own("own-w4a8", "w4a8", _DEFAULTS),
    _own("own-w4a8-auto", "w4a8", 'improve="auto"', improve="auto"),
    _ai_edge("ai-edge-w4a8", "w4a8", "min-max", algorithm="MIN_MAX_UNIFORM_QUANT", bits=4),
    _ai_edge("ai-edge-w4a8-octav", "w4a8", "OCTAV", algorithm="OCTAV", bits=4),
    _own("own-w4a8-trained", "w4a8", f"trained: {_FOUR_BITS['steps']} steps", train=_FOUR_BITS),
    _own("own-dynamic", "dynamic", _DEFAULTS),
    replace(_TF, name="tensorflow-dynamic", form="dynamic", arguments={"form": "dynamic"}),
    replace(_KERAS, name="keras-int8", settings='quantize("int8"), exported on TensorFlow', backend="tensorflow"),
    replace(_KERAS, name="keras-int8-torch", settings='quantize("int8"), exported on torch', backend="torch"),
    _ai_edge("ai-edge-dynamic", "dynamic", _DEFAULTS, form="dynamic"),
)
WAYS: Mapping[str, Way] = {way.name: way for way in _LIST}

_TAKES = {
    "keras": "it takes Keras models, and this network is a .tflite file",
    "keras 2": "it takes Keras 2 models, and there is none of this network",
    "flax": "it takes Flax modules, and there is none of this network",
}


def why_not(way: Way, net: Net, inputs: Inputs) -> str:
    """Returns why a way does not apply to a network, whatever is installed; empty if it does."""
    if way.trains and not net.has_training:
        return "it trains, and there are no images and labels to train this network with"
    if way.needs == "keras" and not inputs.keras:
        return _TAKES[way.needs]
    if way.needs == "keras 2" and not (inputs.weights or inputs.keras.endswith(".h5")):
        return _TAKES[way.needs]
    if way.needs == "flax" and not net.has_training:
        return _TAKES[way.needs]
    return ""

"""The peers, each called as its documentation says; imported by jobs only."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def import_tensorflow() -> Any:
    """Returns TensorFlow, quiet."""
    import tensorflow

    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow


def tensorflow_calibrate(model: bytes, samples: Iterable[np.ndarray]) -> bytes:
    """Returns a float file with the ranges that the calibrator of TensorFlow's converter measured."""
    from tensorflow.lite.python.optimize import calibrator

    prepared = calibrator.add_intermediate_tensors(model)
    return calibrator.Calibrator(prepared).calibrate(lambda: ([sample] for sample in samples))


def tensorflow_convert(keras_file: str, samples: Iterable[np.ndarray] | int, *, is_int8: bool) -> bytes:
    """Returns what TFLiteConverter makes of a Keras model: float, or int8 with float inputs and outputs.

    Needs Keras on the TensorFlow backend. Models saved by Keras 2 load too. A number of samples are random ones.
    """
    tf = import_tensorflow()
    network = keras_model(keras_file)
    if isinstance(samples, int):
        random, shape = np.random.default_rng(0), (1, *network.inputs[0].shape[1:])
        samples = [random.uniform(-1, 1, shape).astype(np.float32) for _ in range(samples)]
    fed = list(samples)
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    if is_int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample] for sample in fed)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def tensorflow_dynamic(keras_file: str) -> bytes:
    """Returns what TFLiteConverter makes of a Keras model without samples: int8 weights beside float activations."""
    tf = import_tensorflow()
    converter = tf.lite.TFLiteConverter.from_keras_model(keras_model(keras_file))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def keras_model(file: str) -> Any:
    """Returns the model of a `.keras` file, or of an `.h5` file of Keras 2."""
    import keras

    class OldDepthwiseConv2D(keras.layers.DepthwiseConv2D):
        """Keras 2 saved an argument that Keras 3 does not know."""

        def __init__(self, *arguments: Any, groups: int = 1, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)

    old = {"DepthwiseConv2D": OldDepthwiseConv2D} if Path(file).suffix == ".h5" else None
    return keras.models.load_model(file, compile=False, custom_objects=old)


def import_ai_edge_quantizer() -> Any:
    """Returns ai-edge-quantizer's `quantizer` and `recipe` modules."""
    from ai_edge_quantizer import quantizer, recipe

    return quantizer, recipe


def ai_edge_calibrate(model: str, samples: Iterable[np.ndarray], *, fastest: bool = False) -> Any:
    """Returns what ai-edge-quantizer measured; `fastest` is its mode without per-tensor statistics in Python."""
    from ai_edge_quantizer.calibrator import CalibrationMode

    quantizer, recipe = import_ai_edge_quantizer()
    tool = quantizer.Quantizer(model, recipe.static_wi8_ai8())
    wish = {"mode": CalibrationMode.CALIBRATION_PROFILER_BASED} if fastest else {}
    with contextlib.redirect_stdout(io.StringIO()):
        return tool.calibrate(_by_signature(model, samples), **wish)


def ai_edge_quantize(model: str, samples: Iterable[np.ndarray], out: str, recipe_name: str) -> float:
    """Writes a file by a recipe of ai-edge-quantizer: `int8` or `dynamic`; returns the seconds of calibration."""
    quantizer, recipe = import_ai_edge_quantizer()
    recipes = {"int8": recipe.static_wi8_ai8, "dynamic": recipe.dynamic_wi8_afp32}
    tool = quantizer.Quantizer(model, recipes[recipe_name]())
    start = time.perf_counter()
    measured = tool.calibrate(_by_signature(model, samples)) if recipe_name == "int8" else None
    calibrate_s = time.perf_counter() - start
    tool.quantize(measured, serialize_to_path=Path(out), enable_progress_report=False)
    return calibrate_s


def ai_edge_int8(model: str, samples: Iterable[np.ndarray], out: str) -> None:
    """Writes an int8 file with ai-edge-quantizer's static recipe."""
    ai_edge_quantize(model, list(samples), out, "int8")


def ai_edge_static(model: str, samples: Iterable[np.ndarray], out: str, algorithm: str, bits: int) -> None:
    """Writes a file with weights of so many bits and int8 activations, by an algorithm of ai-edge-quantizer."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=bits,
        algorithm_key=algorithm_manager.AlgorithmName[algorithm],
    )
    tool = quantizer.Quantizer(model, manager.get_quantization_recipe())
    measured = tool.calibrate(_by_signature(model, samples))
    tool.quantize(measured, serialize_to_path=Path(out), enable_progress_report=False)


def _by_signature(model: str, samples: Iterable[np.ndarray]) -> dict[str, list[dict[str, np.ndarray]]]:
    """Returns samples as ai-edge-quantizer wants them: signature → list of input name → array."""
    from featherweight import tflite

    signature = tflite.read(model).signatures[0]
    return {signature.key: [{signature.inputs[0][0]: sample} for sample in samples]}

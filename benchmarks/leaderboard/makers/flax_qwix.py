"""Qwix on a Flax module of the same network and weights.

Its documentation exports with `ai_edge_jax`, which is on no package index; litert-converter, which is, takes the same
annotations.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import qwix
from flax import linen as nn
from jax import numpy as jnp
from litert_converter import converter_api_ext
from litert_converter.mlir import ir, passmanager

from benchmarks.leaderboard.record import Inputs, Made

# (class, filters, kernel, stride) of the layers before the pooling, each but the last with batch norm and ReLU behind.
_CNN = tuple(("conv", filters, 3, stride) for filters, stride in ((16, 2), (32, 2), (64, 1), (32, 1)))
_DEPTHWISE = (
    ("conv", 24, 3, 2),
    *(
        layer
        for inputs, filters, stride in ((24, 48, 2), (48, 96, 1), (96, 128, 2), (128, 128, 1))
        for layer in (("depthwise", inputs, 3, stride), ("conv", filters, 1, 1))
    ),
)
_LAYERS = {"fashion_cnn": _CNN, "fashion": _DEPTHWISE}
_EPSILON = 1e-3


class _Network(nn.Module):
    """One of the benchmark's networks for Fashion-MNIST, its batch norms folded."""

    layers: tuple[tuple[str, int, int, int], ...]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for kind, filters, kernel, stride in self.layers:
            groups = filters if kind == "depthwise" else 1
            x = nn.Conv(filters, (kernel, kernel), stride, padding="SAME", feature_group_count=groups)(x)
            x = nn.relu(x)
        return nn.softmax(nn.Dense(10)(jnp.mean(x, (1, 2))))


def make(inputs: Inputs, samples: np.ndarray, out: Path) -> Made:
    """Calibrates by one run of the module for training over all samples, and converts with static ranges."""
    network = _Network(_LAYERS[inputs.network])
    params = jax.tree.map(jnp.asarray, _folded(network, inputs.weights))
    rules = [qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8", act_static_scale=True)]
    training = qwix.quantize_model(network, qwix.OdmlQatProvider(rules, strict=False))
    _, state = training.apply({"params": params}, samples[:, 0], mutable="quant_stats")
    provider = qwix.OdmlConversionProvider(rules, params, state["quant_stats"], strict=False)
    converted = qwix.quantize_model(network, provider)

    def compute(values: Any, x: Any) -> Any:
        return converted.apply({"params": values}, x)

    # Weights are found where they are arguments, and integers in the file where they are constants: first the one.
    traced = jax.make_jaxpr(compute)(params, samples[0])
    leaves = jax.tree.leaves(params)
    file = _tflite(lambda x: jax.core.eval_jaxpr(traced.jaxpr, traced.consts, *leaves, x)[0], samples[0])
    out.write_bytes(file)
    simulate = jax.jit(compute)
    return Made(lambda x: np.concatenate([np.asarray(simulate(params, example[np.newaxis])) for example in x]))


def _folded(network: _Network, file: str) -> dict[str, Any]:
    """Returns the parameters, from Keras's weights in order: kernels with the batch norms behind them folded in."""
    with np.load(file) as arrays:
        given = iter([arrays[name] for name in arrays.files])
    params: dict[str, Any] = {}
    for number, (kind, *_) in enumerate(network.layers):
        kernel, gamma, beta, mean, variance = (next(given) for _ in range(5))
        factor = gamma / np.sqrt(variance + _EPSILON)
        kernel = kernel.transpose(0, 1, 3, 2) if kind == "depthwise" else kernel
        params[f"Conv_{number}"] = {"kernel": kernel * factor, "bias": beta - mean * factor}
    params["Dense_0"] = {"kernel": next(given), "bias": next(given)}
    return params


def _tflite(function: Callable[[Any], Any], sample: np.ndarray) -> bytes:
    traced = jax.jit(function).trace(jax.ShapeDtypeStruct(sample.shape, np.float32))
    bytecode = io.BytesIO()
    traced.lower(lowering_platforms=("cpu",)).compiler_ir("stablehlo").operation.write_bytecode(bytecode)
    context = ir.Context()
    converter_api_ext.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        module = ir.Module.parse(bytecode.getvalue())
        main = next(f for f in module.body.operations if str(f.attributes["sym_name"]).strip('"') == "main")
        converter_api_ext.set_signature(main.operation, "serving_default", ["x"], ["y"])
        wish = converter_api_ext.ConvertToTFLConfig()
        wish.model_origin_framework, wish.qdq_conversion_mode, wish.strict_qdq_mode = "JAX", "STATIC", True
        converter_api_ext.run_convert_to_tfl_passes(module, passmanager.PassManager(), wish)
        return converter_api_ext.export_flatbuffer_to_bytes(module.operation)

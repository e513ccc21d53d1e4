"""Training kernels on the random integer models that the reference kernels are tested with, held against LiteRT.

As a script, on the backend of Keras that KERAS_BACKEND names: prints what differs as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.operators.building import CASES
from tests.operators.checking import example, is_lacking
from tests.operators.oracle import RESOLVERS, Oracle

from featherweight import training
from featherweight.errors import DataError, UnsupportedOp
from featherweight.graph import Model, Tensor
from featherweight.graph.numerics import dequantize
from featherweight.operators import lookup
from featherweight.operators.profiles import PROFILES, Profile
from featherweight.runtime import run_reference
from featherweight.tflite import write
from featherweight.training.graph.program import Program
from featherweight.training.integer.exact_sums import chunks_of
from featherweight.training.integer.lookup_tables import HOST
from featherweight.training.integer.step import is_quantized
from featherweight.training.qat.program import Parameters, integer_functions, without_kernel

__all__ = ["computed", "differences", "training"]
ops: Any = keras.ops

# What the rewriter never writes, what a graph model refuses, and what Keras's backends do in another way: positions of
# equal values, classes that there are not.
LEFT_OUT = {"GATHER batches", "TOPK_V2", "ONE_HOT"}


def computed(model: Model, feeds: Mapping[str, np.ndarray], profile: Profile, *, learned: bool) -> list[np.ndarray]:
    """Returns the outputs of an integer model by its training kernels; learned scales are no constants of the step."""
    graph, number = model.main, ops.convert_to_tensor if learned else np.asarray

    def affine(tensor: Tensor) -> tuple[Any, Any]:
        assert tensor.quant is not None
        scale = np.asarray(tensor.quant.scale, np.float32)
        return number(scale.reshape(()) if scale.size == 1 else scale)[()], number(np.float32(_zero_point(tensor)))[()]

    def tables(node: Any) -> tuple[Any, ...]:
        if node.op not in HOST or not is_quantized(graph.tensors[node.outputs[0]]):
            return ()
        ends = ([graph.tensors[name] for name in names] for names in (node.inputs, node.outputs))
        return tuple(ops.convert_to_tensor(table) for table in HOST[node.op](node, *ends, profile))

    zero = ops.convert_to_tensor(np.zeros((), np.float32))
    functions = integer_functions(model, Parameters(affine, lambda: zero, tables, profile, learned), chunks_of(model))
    fed = {name: ops.convert_to_tensor(_centred(graph.tensors[name], array)) for name, array in feeds.items()}
    found = Program(model, functions).run(fed, _real_constants(model), graph.outputs)
    results: list[np.ndarray] = []
    for name in graph.outputs:
        tensor, value = graph.tensors[name], ops.convert_to_numpy(found[name])
        results.append(value + _zero_point(tensor) if is_quantized(tensor) else value)
    return results


def _zero_point(tensor: Tensor) -> int:
    return tensor.quant.zero_point[0] if tensor.quant is not None and tensor.quant.zero_point else 0


def _centred(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) - np.float32(_zero_point(tensor)) if is_quantized(tensor) else array


def _real_constants(model: Model) -> dict[str, Any]:
    graph, found = model.main, dict[str, Any]()
    for tensor in graph.tensors.values():
        if tensor.array is not None and is_quantized(tensor) and tensor.quant is not None:
            found[tensor.name] = ops.convert_to_tensor(dequantize(tensor.array, tensor.quant))
    for node in graph.nodes:
        op = lookup(node.op)
        if op.bias is not None and op.bias < len(node.inputs) and node.inputs[op.bias]:
            x, weight, bias = (graph.tensors[node.inputs[at]] for at in (op.activation, op.weight or 0, op.bias))
            assert x.quant is not None
            assert weight.quant is not None
            assert bias.array is not None
            scale = np.float32(x.quant.scale[0]) * np.asarray(weight.quant.scale, np.float32)
            found[bias.name] = ops.convert_to_tensor((bias.array.astype(np.float64) * scale).astype(np.float32))
    return found


def differences(name: str, form: str, examples: int, oracle: Oracle) -> list[str]:
    """Returns what differs from LiteRT in random examples of one kind of operator, in words."""
    found: list[str] = []

    @seed(0)
    @settings(
        max_examples=examples, suppress_health_check=list(HealthCheck), phases=[Phase.generate], deadline=None,
        database=None,
    )  # fmt: skip
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = CASES[name, form](data.draw)
        model = example(case, name, form)
        if isinstance(model, str):
            return
        model = _without_shortcut(model)
        for profile in (PROFILES[key] for key in RESOLVERS):
            if without_kernel(model, profile) or is_lacking(name, form, profile.name):
                continue
            try:
                run_reference(model, case.feeds, profile.name)
            except (UnsupportedOp, DataError):  # LiteRT does not run it either
                continue
            expected = oracle(write(model), [case.feeds], profile.name)
            assert not isinstance(expected, str), expected
            for learned in (False, True):
                ours = computed(model, case.feeds, profile, learned=learned)
                for value, integers in zip(ours, expected[0], strict=True):
                    if value.shape != integers.shape or (value != integers).any():
                        count = int((value != integers).sum()) if value.shape == integers.shape else "all"
                        found.append(f"{name} {form} in {profile.name}: {count} of {integers.size}")

    check()
    return found


def _without_shortcut(model: Model) -> Model:
    """Returns the model as the rewriter writes it: without LiteRT's shortcut for int16 scales of powers of two."""
    nodes = tuple(
        replace(node, attrs={**node.attrs, "pot_scale_int16": False}) if node.op in ("ADD", "SUB") else node
        for node in model.main.nodes
    )
    return replace(model, graphs=(replace(model.main, nodes=nodes), *model.graphs[1:]))


def run_cases(examples: int, operators: list[str]) -> None:
    oracle, found, count = Oracle(), list[str](), 0
    for name, form in CASES:
        is_left_out = name in LEFT_OUT or name.endswith("int32 bias") or form not in ("int8", "int16")
        if not is_left_out and (not operators or name.split()[0] in operators):
            found += differences(name, form, examples, oracle)
            count += 1
    oracle.close()
    print("RESULT", json.dumps({"kinds": count, "differences": found}))


if __name__ == "__main__":
    run_cases(int(sys.argv[1]), sys.argv[2:])

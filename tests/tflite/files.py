"""Files built with the schema's own objects (not by the writer under test), and models compared after a round trip."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from tests import single_ops
from tests.building import layer, model_of, net, of_graphs, weights

from featherweight import tflite
from featherweight.graph import Model, Signature, Tensor


def packed_tensor(
    name: str | None, shape: tuple[int, ...], dtype: str = "FLOAT32", buffer: int = 0, **more: Any
) -> Any:
    """Returns a schema tensor."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), getattr(schema.TensorType, dtype), buffer
    for key, value in more.items():
        setattr(tensor, key, value)
    return tensor


def packed_buffer(data: np.ndarray | bytes | None) -> Any:
    """Returns a schema buffer."""
    buffer = schema.BufferT()
    if data is not None:
        buffer.data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
    return buffer


def packed_operator(code: int, inputs: list[int], outputs: list[int], options: Any = None, **more: Any) -> Any:
    """Returns a schema operator that uses the operator code number `code`."""
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    for key, value in more.items():
        setattr(operator, key, value)
    return operator


def packed_code(op: str, version: int = 1, custom_code: str | None = None) -> Any:
    """Returns a schema operator code."""
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, op)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version, code.customCode = version, custom_code
    return code


def packed_graph(
    tensors: list[Any], operators: list[Any], inputs: list[int], outputs: list[int], name: str = "main"
) -> Any:
    """Returns a schema subgraph."""
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs, graph.name = tensors, operators, inputs, outputs, name
    return graph


def packed_model(graphs: list[Any], codes: list[Any], buffers: list[Any], **more: Any) -> Any:
    """Returns a schema model."""
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, graphs, codes, buffers
    for key, value in more.items():
        setattr(model, key, value)
    return model


def to_bytes(packed: Any) -> bytes:
    """Returns the file of a schema model."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(packed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def unpacked(content: bytes) -> Any:
    """Returns the schema model of a file."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


# ------------------------------------------------------------------------------------------------ models


def dense_model(rows: int = 4, columns: int = 8, seed: int = 0) -> Model:
    """Returns a model of two dense layers that share no weights, with a signature and metadata."""

    def value(name: str, width: int) -> Tensor:
        return Tensor(name, (1, width), "float32", shape_signature=(-1, width))

    shapes = {"w1": (rows, columns), "b1": (rows,), "w2": (3, rows)}
    constants = {name: weights(*shape, seed=seed + at, spread=0.5) for at, (name, shape) in enumerate(shapes.items())}
    layers = [
        layer("FULLY_CONNECTED", ("x", "w1", "b1"), {"h": value("h", rows)}, fused_activation_function="RELU"),
        layer("FULLY_CONNECTED", ("h", "w2", ""), {"y": value("y", 3)}, fused_activation_function="NONE"),
    ]
    made = net({"x": value("x", columns)}, constants, layers, ("y",))
    signature = Signature("serving_default", (("frame", "x"),), (("score", "y"),))
    return replace(made, signatures=(signature,), metadata={"author": b"tests"}, description="two dense layers")


def while_model() -> Model:
    """Returns a loop: three times x = x @ w + b, counted in a second loop variable."""

    def counter(name: str) -> Tensor:
        return Tensor(name, (), "int32")

    again = Tensor("again", (), "bool")
    cond = net(
        {"cond_n": counter("cond_n"), "cond_x": (1, 4)},
        {"three": np.array(3, np.int32)},
        [layer("LESS", ("cond_n", "three"), {"again": again})],
        ("again",),
    )
    w = np.eye(4, dtype=np.float32)[::-1] * np.float32(0.5)
    body = net(
        {"body_n": counter("body_n"), "body_x": (1, 4)},
        {"one": np.array(1, np.int32), "w": w, "b": np.full(4, 0.25, np.float32)},
        [
            layer("ADD", ("body_n", "one"), {"next_n": counter("next_n")}),
            layer("FULLY_CONNECTED", ("body_x", "w", "b"), {"next_x": (1, 4)}),
        ],
        ("next_n", "next_x"),
    )
    computed = {"n": counter("n"), "y": (1, 4)}
    loop = layer("WHILE", ("zero", "x"), computed, cond_subgraph_index=1, body_subgraph_index=2)
    return of_graphs(main=net({"x": (1, 4)}, {"zero": np.array(0, np.int32)}, [loop], ("y",)), cond=cond, body=body)


def if_model() -> Model:
    """Returns a branch: -x where c is true, else abs(x)."""
    branches = {
        name: model_of(op, {f"{name}_x": (3,)}, {f"{name}_y": (3,)}) for name, op in (("then", "NEG"), ("else", "ABS"))
    }
    chosen = layer("IF", ("c", "x"), {"y": (3,)}, then_subgraph_index=1, else_subgraph_index=2)
    return of_graphs(main=net({"c": Tensor("c", (1,), "bool"), "x": (3,)}, {}, [chosen], ("y",)), **branches)


@functools.cache
def every_file() -> dict[str, bytes]:
    """Returns files by name: those in installed packages, and one built for each operator and control structure."""
    found: dict[str, bytes] = {}
    for package in ("ai_edge_litert", "tflite_micro", "openvino", "ethosu", "litert_converter", "keras"):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(root).rglob("*.tflite")):
                found[f"{package}/{path.name}"] = path.read_bytes()
    for op, make in single_ops.FACTORIES.items():
        found[op] = tflite.write(make())
    for make in (dense_model, while_model, if_model):
        found[make.__name__] = tflite.write(make())
    return found


# ------------------------------------------------------------------------------------------------ comparison


def plain(value: Any) -> Any:
    """Returns a value as plain Python data that == compares in full: arrays by type and bytes, objects by fields."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if type(value).__module__ == schema.__name__:
        return {key: plain(item) for key, item in vars(value).items()}
    return value


def sharing(model: Model) -> list[list[str]]:
    """Returns the groups of tensors that share one buffer."""
    groups: dict[int, list[str]] = {}
    for graph in model.graphs:
        for tensor in graph.tensors.values():
            if tensor.data is not None:
                groups.setdefault(id(tensor.data), []).append(tensor.name)
    return sorted(groups.values())


def litert_outputs(content: bytes, seed: int = 0) -> list[np.ndarray]:
    """Runs a file on LiteRT with random inputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    random = np.random.default_rng(seed)
    for detail in interpreter.get_input_details():
        shape, dtype = detail["shape"], detail["dtype"]
        drawn = random.uniform(0.5, 4, shape) if np.dtype(dtype).kind == "f" else random.integers(0, 2, shape)
        interpreter.set_tensor(detail["index"], np.asarray(drawn).astype(dtype))
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def assert_round_trip(content: bytes) -> Model:
    """Reads and writes a file (both placements of its constants) and returns the model; all must be equal."""
    model = tflite.read(content)
    for limit in ({}, {"inline_limit_bytes": 0}):
        again = tflite.read(tflite.write(model, **limit))
        assert plain(again) == plain(model)
        assert sharing(again) == sharing(model)
    return model


def one_operator(options: Any = None, *, op: str = "NEG", **more: Any) -> bytes:
    """Returns a file of one operator."""
    tensors = [packed_tensor("x", (2, 3)), packed_tensor("y", (2, 3))]
    graph = packed_graph(tensors, [packed_operator(0, [0], [1], options, **more)], [0], [1])
    return to_bytes(packed_model([graph], [packed_code(op)], [packed_buffer(None)]))


def one_constant(data: np.ndarray, dtype: str = "FLOAT32", *, extra: tuple[Any, ...] = (), **more: Any) -> bytes:
    """A file whose first tensor is a constant with the given fields; `extra` are further tensors."""
    tensors = [packed_tensor("w", more.pop("shape", data.shape), dtype, 1, **more), *extra]
    graph = packed_graph(tensors, [], [], [0])
    return to_bytes(packed_model([graph], [], [packed_buffer(None), packed_buffer(data)]))

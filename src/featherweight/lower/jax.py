"""Lowers a JAX function: trace, rewrite, convert, free the batch, verify. Every Keras model goes this way too."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight.errors import LoweringError
from featherweight.graph import Model, Signature
from featherweight.lower import names, verify
from featherweight.lower.checking import (
    SEVERAL,
    WAY_OUT,
    Check,
    Lowered,
    batch_of,
    checked,
    with_recurrent_styles,
)
from featherweight.lower.converter import SIGNATURE, convert
from featherweight.lower.rewrites import fused_lstm
from featherweight.lower.rewrites.engine import UNROLLED, rewritten
from featherweight.lower.rewrites.rules import RULES
from featherweight.lower.rewrites.widening import has_half, in_float32, in_float64
from featherweight.lower.source import Input, Source, first_samples, narrowed, unique_names
from featherweight.lower.states import State, check_steps, with_variables

# The source runs a few times only: compiling it must not take longer than all the rest.
_QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def lower_function(
    function: Callable[..., Any],
    example: Any,
    *,
    unroll: bool = False,
    fuse: bool = False,
    free_batch: bool = False,
    title: str = "",
) -> Lowered:
    """Lowers a plain JAX function, given example arguments.

    Args:
        function: takes arrays (or nested structures of arrays) and returns them; keys of a dictionary name the outputs.
        example: its arguments: a tuple, or a single array. They fix shapes and dtypes, and verify the result.
        unroll: write loops of known length (`lax.scan`) out step by step.
        fuse: write Keras LSTM layers that it calls as one operator each.
        free_batch: the first dimension of every argument is a batch, and may vary.
        title: what messages call it.

    Raises:
        LoweringError: if the function can't be traced or converted, or the result differs from it.
    """
    import jax

    arguments = example if isinstance(example, tuple) else (example,)
    flat, structure = jax.tree.flatten(arguments)
    paths = [_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(arguments)[0]]
    arrays = [np.asarray(leaf) for leaf in flat]

    names: list[str] = []

    def call(*inputs: Any) -> list[Any]:
        found = jax.tree_util.tree_flatten_with_path(function(*jax.tree.unflatten(structure, inputs)))[0]
        returned = [_path(path) for path, _ in found if path]
        names[:] = [f"output_{path}" if path[:1].isdigit() else path for path in returned]
        return [leaf for _, leaf in found]

    named = unique_names(f"input_{path}" if path.isdigit() else path for path in paths)
    inputs = tuple(
        Input(name, (None, *a.shape[1:]) if free_batch and a.ndim else a.shape, a.dtype.name)
        for name, a in zip(named, arrays, strict=True)
    )
    title = title or f"function {getattr(function, '__name__', '')}".strip()
    return lower_source(Source(call, inputs, names, title=title), unroll=unroll, fuse=fuse, samples=[tuple(arrays)])


def lower_source(
    source: Source, *, unroll: bool = False, fuse: bool = False, samples: Iterable[Any] | None = None
) -> Lowered:
    """Lowers a source whose `call` JAX can trace; see `lower` for the arguments and errors."""
    import jax

    # With 64-bit types enabled, as litert-torch does for the whole process, loops count in int64, which kernels lack.
    with jax.enable_x64(False):
        return _lowered(source, unroll, fuse, samples)


def _lowered(source: Source, unroll: bool, fuse: bool, samples: Iterable[Any] | None) -> Lowered:
    source = replace(source, inputs=narrowed(source.inputs, half=False))
    notes = list[str]()
    given = first_samples(samples, source.inputs)
    trace = _traced(source, 1)
    states: list[State] = []
    said: tuple[str, ...] = ()
    if (stateful := source.with_state()) is not None:
        source, initial, said = stateful
        states = [State(name, value) for name, value in initial.items()]
        real = source.inputs[: -len(states)]
        fed = batch_of(given, real, 1) or verify.random_inputs(real, 1, _integer_limits(trace.jaxpr.jaxpr, real))
        given = [[*fed, *initial.values()]]
        trace = _traced(source, 1)
    if has_half(trace.jaxpr.jaxpr):
        notes.append(f"The {source.title} computes in 16 bits, and its graph in float32.")
        wide = in_float32(source.call, [item.dtype for item in source.inputs])
        source = replace(source, call=wide, inputs=narrowed(source.inputs, half=True))
        types = {item.name: item.dtype for item in source.inputs}
        states = [State(s.name, s.initial.astype(types.get(s.name, s.initial.dtype))) for s in states]
        trace = _traced(source, 1)
    outputs = tuple(source.outputs) or tuple(f"output_{i}" for i in range(len(trace.out_avals)))
    if len(outputs) == 1 and not source.outputs:
        outputs = ("output",)
    if len(outputs) != len(trace.out_avals):
        raise LoweringError(
            f"The {source.title} returns {len(trace.out_avals)} arrays, but names {len(outputs)} outputs: "
            f"{', '.join(outputs)}."
        )
    named = replace(source, outputs=unique_names(outputs))
    is_free = any(item.has_free_batch for item in named.inputs)
    limits = _integer_limits(trace.jaxpr.jaxpr, named.inputs)
    with ThreadPoolExecutor(1) as pool:
        compiled = _Compiled(named, pool)
        compiled.prepare(SEVERAL if is_free else 1)
        check = Check(named.title, named.inputs, named.outputs, compiled, limits, given, compiled.exact)
        applied = set[str]()

        def convert(size: int) -> Model:
            if fuse:
                traced = _marked(named, size, notes, unroll=unroll)
            else:
                traced = trace if size == 1 else _traced(named, size)
            return _converted(named, traced, unroll, applied)

        lowered = checked(check, convert)
        if states:
            model = with_variables(lowered.model, states)
            check_steps(model, compiled, given[0][: -len(states)], states, source.title, WAY_OUT)
            lowered = replace(lowered, model=model, notes=(*said, *lowered.notes))
    return with_recurrent_styles(replace(lowered, notes=(*lowered.notes, *notes)), is_unrolled=UNROLLED in applied)


class _Compiled:
    """The source compiled by XLA for each batch that is asked for, in the background while the converter works."""

    def __init__(self, source: Source, pool: Executor) -> None:
        self._source, self._pool = source, pool
        self._compiled: dict[int, Future[Any]] = {}

    def prepare(self, size: int) -> None:
        """Starts to compile for a batch; where it can't be traced, calling it says so."""
        try:
            lowered = _traced(self._source, size).lower(lowering_platforms=("cpu",))
        except LoweringError as error:
            self._compiled[size] = Future()
            self._compiled[size].set_exception(error)
        else:
            self._compiled[size] = self._pool.submit(lowered.compile, _QUICK_COMPILE)

    def __call__(self, inputs: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
        """Runs the source on inputs of a batch."""
        if size not in self._compiled:
            self.prepare(size)
        return [np.asarray(array) for array in self._compiled[size].result()(*inputs)]

    def exact(self, inputs: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
        """Computes the source in float64."""
        return in_float64(_traced(self._source, size).jaxpr, inputs)


def _traced(source: Source, size: int) -> Any:
    import jax

    specs = [jax.ShapeDtypeStruct(item.at(size), item.dtype) for item in source.inputs]
    try:
        with warnings.catch_warnings():  # Layers of models with 64-bit inputs ask for what is narrowed anyway.
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            return jax.jit(source.call, keep_unused=True).trace(*specs)
    except Exception as error:  # Whatever the model's own code raises.
        said = " ".join(str(error).split())[:400].rstrip(".")
        shapes = ", ".join(f"{i.name}: {s.dtype}{list(s.shape)}" for i, s in zip(source.inputs, specs, strict=True))
        raise LoweringError(
            f"The {source.title} can't be traced on {shapes}: {type(error).__name__}: {said}. "
            "Its computation must not depend on the values of its inputs, and must accept these shapes."
        ) from error


def _marked(source: Source, size: int, notes: list[str], *, unroll: bool) -> Any:
    """Traces the source with its LSTM layers marked; what it is verified against is traced without marks."""
    call = fused_lstm.marked(source.call, notes, unroll=unroll)
    return _traced(replace(source, call=call), size)


def _converted(source: Source, trace: Any, unroll: bool, applied: set[str]) -> Model:
    """Converts a trace under the rewriting rules, whose names `applied` takes, and gives its tensors good names."""
    import jax

    from featherweight.tflite import read

    closed = trace.jaxpr
    function, names_of_rules = rewritten(closed, RULES, unroll)
    trace = jax.jit(function, keep_unused=True).trace(*closed.in_avals)
    applied.update(names_of_rules)
    module = trace.lower(lowering_platforms=("cpu",)).compiler_ir("stablehlo")
    bytecode = io.BytesIO()
    module.operation.write_bytecode(bytecode)
    inputs = [item.name for item in source.inputs]
    model = read(convert(bytecode.getvalue(), inputs, source.outputs))
    signature = Signature(
        SIGNATURE,
        tuple(zip(inputs, model.main.inputs, strict=True)),
        tuple(zip(source.outputs, model.main.outputs, strict=True)),
    )
    return fused_lstm.fused(names.renamed(replace(model, signatures=(signature,), metadata={}), source.scope))


def _integer_limits(jaxpr: Any, inputs: Sequence[Input]) -> dict[str, int]:
    """For integer inputs that index a table: the table's size, below which random values must stay."""
    reach: dict[Any, frozenset[str]] = {
        var: frozenset([item.name]) for var, item in zip(jaxpr.invars, inputs, strict=True) if "int" in item.dtype
    }
    limits: dict[str, int] = {}
    _collect_limits(jaxpr, reach, limits)
    return limits


def _collect_limits(jaxpr: Any, reach: dict[Any, frozenset[str]], limits: dict[str, int]) -> None:
    from jax.extend.core import Literal

    for equation in jaxpr.eqns:
        sources = [frozenset() if isinstance(a, Literal) else reach.get(a, frozenset()) for a in equation.invars]
        if equation.primitive.name == "gather" and sources[1]:
            table = equation.invars[0].aval.shape
            size = min(int(table[axis]) for axis in equation.params["dimension_numbers"].start_index_map)
            limits.update({name: min(limits.get(name, size), size) for name in sources[1]})
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        body = getattr(inner, "jaxpr", inner)
        if body is not None and len(body.invars) == len(equation.invars):
            inside = {v: s for v, s in zip(body.invars, sources, strict=True) if s}
            _collect_limits(body, inside, limits)
        reached = frozenset().union(*sources)
        for var in equation.outvars:
            if reached and np.issubdtype(var.aval.dtype, np.integer):
                reach[var] = reached


def _path(path: Sequence[Any]) -> str:
    """A tree path as a name: keys joined by underscores."""
    return "_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)

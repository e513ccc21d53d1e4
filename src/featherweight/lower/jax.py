"""Lowers a JAX function: trace, rewrite, convert, free the batch, verify. Every Keras model goes this way too."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from featherweight.errors import FeatherweightError, LoweringError
from featherweight.graph import Model, Signature
from featherweight.lower import batch, names, verify
from featherweight.lower.converter import SIGNATURE, convert
from featherweight.lower.rewriting import rewritten
from featherweight.lower.rules import RULES
from featherweight.lower.source import Input, Source, first_samples, unique_names
from featherweight.runtime.litert import Session

_log = logging.getLogger("featherweight")
# The batch at which a freed graph is checked against its source, besides 1.
_SEVERAL = 3
# The source runs a few times only: compiling it must not take longer than all the rest.
_QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_WAY_OUT = (
    "This is a defect of the conversion: nothing was returned. Please report it with the layers of the model; "
    "lowering through TensorFlow (route='tensorflow') may work."
)


@dataclass(frozen=True)
class Lowered:
    """A verified float model, and notes on what the caller should know (a batch that had to stay fixed …)."""

    model: Model
    notes: tuple[str, ...] = ()


def lower_function(
    function: Callable[..., Any], example: Any, *, unroll: bool = False, free_batch: bool = False, title: str = ""
) -> Lowered:
    """Lowers a plain JAX function, given example arguments.

    Args:
        function: takes arrays (or nested structures of arrays) and returns them.
        example: its arguments: a tuple, or a single array. They fix shapes and dtypes, and verify the result.
        unroll: write loops of known length (`lax.scan`) out step by step.
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

    def call(*inputs: Any) -> list[Any]:
        return jax.tree.leaves(function(*jax.tree.unflatten(structure, inputs)))

    named = unique_names(f"input_{path}" if path.isdigit() else path for path in paths)
    inputs = tuple(
        Input(name, (None, *a.shape[1:]) if free_batch and a.ndim else a.shape, a.dtype.name)
        for name, a in zip(named, arrays, strict=True)
    )
    title = title or f"function {getattr(function, '__name__', '')}".strip()
    return lower_source(Source(call, inputs, title=title), unroll=unroll, samples=[tuple(arrays)])


def lower_source(source: Source, *, unroll: bool = False, samples: Iterable[Any] | None = None) -> Lowered:
    """Lowers a source whose `call` JAX can trace; see `lower` for the arguments and errors."""
    given = first_samples(samples, source.inputs)
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
    with ThreadPoolExecutor(1) as pool:
        check = _Check(named, _integer_limits(trace.jaxpr.jaxpr, named.inputs), given, pool)
        check.prepare(_SEVERAL if is_free else 1)  # XLA compiles the source while the converter works.
        model = _converted(named, trace, unroll)
        if is_free:
            return _with_free_batch(named, model, check, unroll)
        check.at_fixed_batch(model)
        return Lowered(model)


@dataclass(frozen=True)
class _Check:
    """Compares models with their source; the source is compiled and run once per batch."""

    source: Source
    limits: Mapping[str, int]
    samples: Sequence[Sequence[np.ndarray]]
    pool: Executor
    compiled: dict[int, Future[Any]] = field(default_factory=dict)
    known: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = field(default_factory=dict)

    def prepare(self, size: int) -> None:
        """Starts to compile the source, as it is, for a batch."""
        lowered = _traced(self.source, size).lower(lowering_platforms=("cpu",))
        self.compiled[size] = self.pool.submit(lowered.compile, _QUICK_COMPILE)

    def expected(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(inputs, the source's outputs) at a batch: random inputs whose outputs are finite, or the samples."""
        if size not in self.known:
            self.known[size] = self._computed(size)
        return self.known[size]

    def _computed(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        if size not in self.compiled:
            self.prepare(size)
        run = self.compiled[size].result()
        inputs = _batch_of(self.samples, self.source.inputs, size)
        if inputs is not None:
            return inputs, [np.asarray(a) for a in run(*inputs)]
        for positive in (False, True):
            inputs = verify.random_inputs(self.source.inputs, size, self.limits, positive=positive)
            outputs = [np.asarray(a) for a in run(*inputs)]
            if all(np.isfinite(o).all() for o in outputs if o.dtype.kind == "f"):
                return inputs, outputs
        raise LoweringError(
            f"The {self.source.title} itself returns NaN or infinite values for random inputs, so its lowering can't "
            "be verified. Pass inputs for which it is finite as samples=, or look for NaN in its weights."
        )

    def at_fixed_batch(self, model: Model) -> None:
        """Raises where the model differs from its source at batch 1."""
        inputs, outputs = self.expected(1)
        try:
            with Session(model) as session:
                got = verify.outputs_of(session, inputs)
        except FeatherweightError as error:
            raise LoweringError(f"The lowered {self.source.title} does not run: {error}. {_WAY_OUT}") from error
        found = verify.differences(self.source.outputs, outputs, got)
        verify.require_equal(found, self.source.title, _WAY_OUT)

    def at_free_batch(self, model: Model) -> Model:
        """Returns the model with its free sizes marked; raises where it differs at several samples or at one."""
        inputs, outputs = self.expected(_SEVERAL)
        free = [item.has_free_batch for item in self.source.inputs]
        one = [array[:1] if is_free else array for array, is_free in zip(inputs, free, strict=True)]
        with Session(model) as session:
            single = verify.outputs_of(session, one)
            several = verify.outputs_of(session, inputs)
        found = verify.differences(self.source.outputs, outputs, several)
        verify.require_equal(found, f"{self.source.title} at batch {_SEVERAL}", _WAY_OUT)
        marked = batch.with_signatures(model, verify.shapes_at(model, inputs), _SEVERAL)
        first = [o[:1] if o.shape != g.shape else o for o, g in zip(outputs, single, strict=True)]
        if not all(d.is_tolerable for d in verify.differences(self.source.outputs, first, single)):
            self.at_fixed_batch(model)  # The samples of a batch depend on each other: ask the source itself.
        return marked


def _with_free_batch(source: Source, model: Model, check: _Check, unroll: bool) -> Lowered:
    """Frees the batch: from the graph lowered at batch 1, else from one at a batch that stands out, else not."""
    public = [item.name for item in source.inputs if item.has_free_batch]
    reasons: list[str] = []
    for size in (1, batch.telling_batch(model)):
        try:
            lowered = model if size == 1 else _converted(source, _traced(source, size), unroll)
            tensors = [tensor for name, tensor in lowered.signatures[0].inputs if name in public]
            return Lowered(check.at_free_batch(batch.freed(lowered, tensors, size)))
        except FeatherweightError as error:
            reasons.append(str(error))
    check.at_fixed_batch(model)
    note = f"The batch of the {source.title} stays fixed at 1: {reasons[-1].split('. ')[0].rstrip('.')}."
    _log.warning(note)
    return Lowered(model, (note,))


def _traced(source: Source, size: int) -> Any:
    import jax

    specs = [jax.ShapeDtypeStruct(item.at(size), item.dtype) for item in source.inputs]
    try:
        return jax.jit(source.call, keep_unused=True).trace(*specs)
    except Exception as error:  # Whatever the model's own code raises.
        said = " ".join(str(error).split())[:400].rstrip(".")
        shapes = ", ".join(f"{i.name}: {s.dtype}{list(s.shape)}" for i, s in zip(source.inputs, specs, strict=True))
        raise LoweringError(
            f"The {source.title} can't be traced on {shapes}: {type(error).__name__}: {said}. "
            "Its computation must not depend on the values of its inputs, and must accept these shapes."
        ) from error


def _converted(source: Source, trace: Any, unroll: bool) -> Model:
    """Converts a trace under the rewriting rules, and gives its tensors good names."""
    import jax

    from featherweight.tflite import read

    closed = trace.jaxpr
    function, _ = rewritten(closed, RULES, unroll)
    trace = jax.jit(function, keep_unused=True).trace(*closed.in_avals)
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
    return names.renamed(replace(model, signatures=(signature,)))


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
            indexed = equation.params["dimension_numbers"].start_index_map
            for name in sources[1]:
                limits[name] = min([limits.get(name, 2**31 - 1), *(table[axis] for axis in indexed)])
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        body = getattr(inner, "jaxpr", inner)
        if body is not None and len(body.invars) == len(equation.invars):
            inside = {v: s for v, s in zip(body.invars, sources, strict=True) if s}
            _collect_limits(body, inside, limits)
        reached = frozenset().union(*sources)
        for var in equation.outvars:
            if reached and np.issubdtype(var.aval.dtype, np.integer):
                reach[var] = reached


def _batch_of(
    samples: Sequence[Sequence[np.ndarray]], inputs: Sequence[Input], size: int
) -> list[np.ndarray] | None:
    """Makes a batch of `size` from samples, with or without their own batch dimension; None without samples."""
    if not samples:
        return None
    arrays: list[np.ndarray] = []
    for position, item in enumerate(inputs):
        rows = [np.asarray(sample[position], item.dtype) for sample in samples]
        if not item.has_free_batch:
            arrays.append(_fitting(rows[0], item.at(1), item))
            continue
        shape = item.at(1)[1:]
        stacked = np.concatenate([row if row.shape[1:] == shape else row[None] for row in rows])
        stacked = np.concatenate([stacked] * -(-size // len(stacked)))[:size]
        arrays.append(_fitting(stacked, item.at(size), item))
    return arrays


def _fitting(array: np.ndarray, shape: tuple[int, ...], item: Input) -> np.ndarray:
    if array.shape == shape:
        return array
    raise LoweringError(f"A sample for input '{item.name}' has shape {list(array.shape)}; it must be {list(shape)}.")


def _path(path: Sequence[Any]) -> str:
    """A tree path as a name: keys joined by underscores."""
    return "_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)

"""How the random integer models of one operator are put together, and where their kinds are enrolled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.building import layer, net

from featherweight import operators
from featherweight.graph import Model, Tensor, constant
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.runtime.reference import run_reference

FUSED = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
Drawn = Callable[[Callable[..., Any]], "Case"]
CASES: dict[tuple[str, str], Drawn] = {}  # by the name of a kind, which begins with its operator, and the form


@dataclass
class Case:
    """One operator under construction."""

    op: str
    attrs: dict[str, Any] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    form: str = ""

    def fed(self, name: str, array: np.ndarray, quant: QuantParams | None) -> Case:
        self.tensors.append(Tensor(name, array.shape, array.dtype.name, quant=quant))
        self.feeds[name] = array
        return self

    def constant(
        self, name: str, array: np.ndarray, quant: QuantParams | None = None, dtype: str | None = None
    ) -> Case:
        self.tensors.append(constant(name, array, dtype, quant))
        return self

    def gives(self, dtype: str, quant: QuantParams | None, count: int = 1) -> Case:
        self.outputs = [Tensor(f"y{i}", (1,), dtype, quant=quant) for i in range(count)]
        return self

    def model(self) -> Model:
        """Returns the model, with the shapes of its outputs as the reference kernels find them."""
        found = run_reference(self.shaped([t.shape for t in self.outputs]), self.feeds, "integer_multiplier")
        return self.shaped([found[t.name].shape for t in self.outputs])

    def shaped(self, shapes: Sequence[tuple[int, ...]]) -> Model:
        """Returns the model, with these shapes of its outputs."""
        record = operators.lookup(self.op)
        form = f"{self.form}*int8" if record.weight is not None and "*" not in self.form else self.form
        version = record.versions.get(form, 1)
        given = {t.name: t for t in self.tensors}
        fed = {name: given[name] for name in self.feeds}
        results = {t.name: replace(t, shape=shape) for t, shape in zip(self.outputs, shapes, strict=True)}
        computed = layer(self.op, tuple(given), results, version=version, **self.attrs)
        return net(fed, given, [computed], tuple(computed[1]))


def case(
    *names: str, forms: tuple[str, ...] = ("int8", "int16")
) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    """Enrols the drawing function (draw, op, form) of kinds of operators, in forms that LiteRT runs."""

    def enrol(function: Callable[..., Case]) -> Callable[..., Case]:
        for name in names:
            for form in forms:
                CASES[name, form] = lambda draw, op=name, form=form: replace(function(draw, op, form), form=form)
        return function

    return enrol


def random_of(draw: Callable[..., Any]) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def integers(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    low, high = integer_range(dtype)
    return random.integers(low, high + 1, shape).astype(dtype)


def params(draw: Callable[..., Any], dtype: str, low: float = -8.0, high: float = 3.0) -> QuantParams:
    """Draws parameters per tensor, with scales between powers of two, and often one: then products tie."""
    exponent = draw(st.one_of(st.floats(low, high), st.floats(low, high), st.integers(int(low), int(high))))
    scale = float(np.float32(2.0**exponent))
    zero = 0 if dtype == "int16" else draw(st.integers(-128, 127))
    return QuantParams(dtype, (scale,), (zero,))


def scaled(quant: QuantParams, factor: float) -> QuantParams:
    return replace(quant, scale=tuple(float(np.float32(s * factor)) for s in quant.scale))


def window(draw: Callable[..., Any], *, dilated: bool = True) -> dict[str, Any]:
    stride, dilation = draw(st.integers(1, 3)), 1
    if dilated and stride == 1:
        dilation = draw(st.sampled_from((1, 1, 2)))
    attrs = {"stride_h": stride, "stride_w": stride, "padding": draw(st.sampled_from(("SAME", "VALID")))}
    return attrs | ({"dilation_h_factor": dilation, "dilation_w_factor": dilation} if dilated else {})


def image(draw: Callable[..., Any], dtype: str, channels: int, least: int = 5) -> np.ndarray:
    size = draw(st.integers(1, 2)), draw(st.integers(least, 9)), draw(st.integers(least, 9)), channels
    return integers(random_of(draw), size, dtype)

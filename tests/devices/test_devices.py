"""`check` held against the devices' clients: a sample of the table that `make devices` goes through as a whole."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from tests.devices import elementwise_grid, movers_grid, stateful_grid, weighted_grid
from tests.devices.grid import GRID, Tried, params, tried, values
from tests.devices.judges import ACCELERATORS, Judge
from tests.devices.judging import WRONG, judged
from tests.operators.building import Case
from tests.operators.recurrent_cases import LSTM

from featherweight.graph import constant
from featherweight.graph.numerics import QuantParams
from featherweight.passes.legalization import narrow_indices
from featherweight.runtime import run_reference
from featherweight.targets import target as targets
from featherweight.tflite import write

FAMILIES = (elementwise_grid, movers_grid, stateful_grid, weighted_grid)
SAMPLED_OPS, MODELS_PER_OP = 14, 4


@pytest.fixture(scope="module", params=("tflm", *ACCELERATORS))
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    client = Judge(request.param)
    yield client
    client.close()


@pytest.fixture(scope="module")
def micro() -> Iterator[Judge]:
    client = Judge("tflm")
    yield client
    client.close()


def asked(model: Tried, judge: Judge) -> str:
    """The outcome of one model on the judge's target."""
    verdict = judge(write(model.model), model.fed, len(model.model.main.outputs))
    found = judged(model, targets.load(judge.target), verdict)
    assert found.outcome not in WRONG, f"{judge.target}: {model.name}: {found.outcome}: {found.words}"
    return found.outcome


def test_check_says_what_the_client_does(judge: Judge) -> None:
    chosen = random.Random(judge.target)
    outcomes = []
    for op in chosen.sample(sorted(GRID), SAMPLED_OPS):
        models = list(islice(tried(op), 120))
        outcomes += [asked(model, judge) for model in chosen.sample(models, min(MODELS_PER_OP, len(models)))]
    assert {"runs", "refused"} <= set(outcomes)


def single(case: Case) -> Tried:
    """Returns a case of one's own, with what the reference kernels compute."""
    model = case.model()
    found = run_reference(model, case.feeds, "tflm")
    return Tried(case.op, case.form, "single", model, case.feeds, [found[name] for name in model.main.outputs])


def test_nibbles_end_vela_and_check_says_so(judge: Judge) -> None:
    (model,) = (m for m in tried("FULLY_CONNECTED") if (m.form, m.what) == ("int8*int4", "one scale"))
    assert asked(model, judge) == ("runs" if judge.target == "tflm" else "refused")
    said = [violation.message for violation in targets.check(model.model, judge.target)]
    assert any("Vela ends at a tensor of 4 bits" in text for text in said) == (judge.target != "tflm")


def test_what_tflm_computes_wrongly_without_a_word_is_refused(micro: Judge) -> None:
    x = values((1, 3, 4, 5), "int8")
    clipped = Case("RELU6", form="int8").fed("x", x, params("int8")).gives("int8", params("int8", 0.02, -9))
    channels = QuantParams("int8", (0.1, 0.2, 0.3, 0.4, 0.5), (0,) * 5, 3)
    real = Case("DEQUANTIZE", form="int8").constant("x", x, channels).gives("float32", None)
    for case, text in ((clipped, "has other parameters than its result"), (real, "'x' has 5 scales")):
        (violation,) = targets.check(single(case).model, "tflm")
        assert text in violation.message
        assert asked(single(case), micro) == "refused"


def test_widths_of_64_bits_are_written_in_32(micro: Judge) -> None:
    widths = np.asarray(((0, 0), (1, 1), (2, 0), (0, 0)), np.int64)
    case = Case("PAD", form="float32").fed("x", values((1, 3, 4, 5), "float32"), None).constant("widths", widths)
    wide = single(case.gives("float32", None))
    assert [violation.constraint for violation in targets.check(wide.model, "tflm")]
    assert asked(wide, micro) == "refused"
    narrow = replace(wide.model, graphs=(narrow_indices(wide.model.main, set(wide.model.tensors)),))
    assert narrow.main.tensors[narrow.main.nodes[0].inputs[1]].dtype == "int32"
    assert asked(replace(wide, model=narrow), micro) == "runs"


def test_places_that_32_bits_can_not_hold_stay_as_they_are() -> None:
    case = Case("SLICE", form="float32").fed("x", values((3,), "float32"), None)
    case.constant("begin", np.zeros(1, np.int64)).constant("size", np.full(1, 3, np.int64))
    graph = single(case.gives("float32", None)).model.main
    tensors = {**graph.tensors, "size": constant("size", np.full(1, 1 << 40, np.int64))}
    found = narrow_indices(replace(graph, tensors=tensors), set(tensors))
    assert [found.tensors[name].dtype for name in found.nodes[0].inputs[1:]] == ["int32", "int64"]


def test_recurrent_layers_that_clients_do_not_compute_are_refused(judge: Judge) -> None:
    chosen = {model.what: model for model in tried(LSTM) if model.form == "int8*int8"}
    refused = {
        "peephole",
        "projection",
        "normalized layers",
        "coupled gates",
        "no biases",
        "then RELU",
        "scales per channel",
    }
    one_unit = "batch 1, 1 steps, 1 features, 1 units, time major False"
    for what in sorted({*refused, one_unit}):
        assert bool(targets.check(chosen[what].model, judge.target)) == (what in refused or judge.target != "tflm"), (
            what
        )
        asked(chosen[what], judge)
    assert targets.check(chosen["cell_clip 0.75"].model, judge.target) == ()

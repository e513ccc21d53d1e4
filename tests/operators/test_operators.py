"""Every operator against LiteRT, integer for integer, in the profiles of its three sets of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from tests.operators.building import CASES
from tests.operators.checking import compared, example
from tests.operators.oracle import RESOLVERS, Oracle

from featherweight import operators
from featherweight.tflite import write


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    answers = Oracle()
    yield answers
    answers.close()


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_integer_is_litert_s(name: str, form: str, oracle: Oracle) -> None:
    # No shrinking: the first counterexample says enough, and the oracle is slow where it ends.
    @settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = CASES[name, form](data.draw)
        model = example(case, name, form)
        if isinstance(model, str):
            reject()
        content = write(model)
        for profile in RESOLVERS:
            found = compared(name, form, model, content, [case.feeds], oracle, profile)
            assert not found.broken

    check()


def test_every_operator_with_an_integer_kernel_is_tested() -> None:
    tested = {name.split()[0] for name, _ in CASES}
    kernels = {
        op.name for op in operators.registered() if any(form == "*" or form.startswith("int8") for form in op.kernels)
    }
    # Variables are compared over steps, in whole models: tests/tasks/test_states.py.
    assert kernels - tested == {"CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}

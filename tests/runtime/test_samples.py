from __future__ import annotations

import re

import jax.numpy as jnp
import numpy as np
import pytest
from tests.runtime import tiny

from featherweight.errors import DataError
from featherweight.graph import Model
from featherweight.runtime.samples import as_feeds, feeds, known_length

ONE = np.array([1, 2, 3], np.float32)


def rows(samples, model: Model, **options) -> list[list[list[float]]]:
    return [feed["x"].tolist() for feed in as_feeds(samples, model, **options)]


@pytest.mark.parametrize(
    "samples",
    [
        [ONE, ONE],
        [ONE[None], ONE[None]],
        [(ONE,), [ONE]],
        [{"x": ONE}, {"x": ONE[None]}],
        np.stack([ONE, ONE]),
        np.stack([ONE, ONE])[:, None],
        {"x": np.stack([ONE, ONE])},
        [jnp.asarray(ONE), [1.0, 2.0, 3.0]],
        [ONE.astype(np.float64), ONE.astype(np.uint8)],
        (sample for sample in (ONE, ONE)),
        [np.stack([ONE, ONE])],
    ],
)
def test_every_kind_of_sample_gives_the_same_feeds(samples):
    assert rows(samples, tiny.dense()) == [[[1, 2, 3]], [[1, 2, 3]]]


def test_public_names_come_from_the_signature_and_tensor_names_work_too():
    model = tiny.two_inputs(signature=True)
    a, b = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    for sample in ((a, b), {"in_b": b, "in_a": a}, {"b": b, "a": a}):
        (feed,) = as_feeds([sample], model)
        assert {name: array.tolist() for name, array in feed.items()} == {"in_a": [[0, 0]], "in_b": [[1, 1]]}


def test_free_batch_takes_samples_as_they_come_or_regrouped():
    model, data = tiny.dense(free=True), np.arange(21, dtype=np.float32).reshape(7, 3)
    pieces = [data[:4], data[4], data[5:]]
    assert [len(feed) for feed in rows(pieces, model)] == [4, 1, 2]
    assert [len(feed) for feed in rows(pieces, model, batch=3)] == [3, 3, 1]
    assert [row for feed in rows(pieces, model, batch=3) for row in feed] == data.tolist()


def test_fixed_batch_is_filled_exactly():
    data = np.arange(18, dtype=np.float32).reshape(6, 3)
    found = list(feeds([data[0], data[1:4], data[4:]], tiny.dense(2)))
    assert [feed.arrays["x"].tolist() for feed in found] == [data[i : i + 2].tolist() for i in (0, 2, 4)]
    assert [feed.label for feed in found] == ["samples 0 to 1", "sample 1", "sample 2"]
    with pytest.raises(DataError, match=r"the last 1 examples don't fill the model's fixed batch of 2"):
        rows(data[:5], tiny.dense(2))


@pytest.mark.parametrize(("free", "batch"), [(True, None), (True, 2), (False, None)])
def test_limit_counts_examples_and_reads_no_more(free, batch):
    taken: list[int] = []

    def source():
        for number in range(10):
            taken.append(number)
            yield np.full((4, 3), number, np.float32)

    found = rows(source(), tiny.dense(free=free), limit=6, batch=batch)
    assert sum(len(feed) for feed in found) == 6
    assert taken == [0, 1]


def test_an_exhausted_iterator_is_an_error_and_a_generator_is_consumed_once():
    generator = (ONE for _ in range(3))
    assert len(rows(generator, tiny.dense())) == 3
    with pytest.raises(DataError, match="the iterator gave no samples: it is empty, or something consumed it before"):
        rows(generator, tiny.dense())


NAN, INF = np.array([1, np.nan, 3], np.float32), np.array([1, 2, -np.inf], np.float32)
BAD = [
    ([], "there are no samples: the collection is empty"),
    (iter([]), "the iterator gave no samples"),
    ("data.npz", "samples are str 'data.npz'; load the data first"),
    (7, "samples are a int, which can't be iterated over"),
    ([ONE, NAN], "sample 1, input 'x': it holds NaN (first at [0, 1]); samples must be finite numbers"),
    ([INF], "sample 0, input 'x': it holds infinity (first at [0, 2])"),
    ([np.array([1e300, 0, 0])], "sample 0, input 'x': it holds infinity"),
    ([ONE, ONE[:2]], "sample 1, input 'x': its shape is [2]; the model takes [1, 3], or [3] for one example."),
    ([ONE[None, None]], "sample 0, input 'x': its shape [1, 1, 3] has rank 3; the model takes [1, 3]"),
    ([np.zeros((0, 3))], "sample 0, input 'x': its shape [0, 3] holds no example"),
    ([(ONE, 1)], "sample 0 holds 2 arrays, but the model takes 1 (x). Leave labels out: `(x for x, y in data)`."),
    ([{"y": ONE}], "sample 0: 'y' is not an input of the model; its inputs are x."),
    ([{}], "sample 0: 'x' is missing; its inputs are x."),
    ([np.array(["a", "b", "c"])], "sample 0, input 'x': its dtype is str"),
    ([np.array([True, False, True])], "sample 0, input 'x': its dtype is bool; the model takes float32."),
    ([ONE.astype(np.complex64)], "its dtype is complex64; the model takes float32."),
    ([[[1, 2], [3]]], "sample 0, input 'x': a list can't be read as an array"),
    ([None], "sample 0, input 'x': its dtype is object; the model takes float32."),
]


@pytest.mark.parametrize(("samples", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_samples_say_what_is_wrong(samples, message):
    with pytest.raises(DataError, match=re.escape(message)):
        rows(samples, tiny.dense())


def test_several_inputs_must_all_be_there_and_agree():
    model = tiny.two_inputs()
    one, two = np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float32)
    with pytest.raises(DataError, match=r"sample 0 is one ndarray, but the model takes 2 \(a, b\)"):
        list(as_feeds([one], model))
    with pytest.raises(DataError, match=r"sample 0 holds 1 arrays, but the model takes 2 \(a, b\)\.$"):
        list(as_feeds([(one,)], model))
    with pytest.raises(DataError, match=r"sample 0: its inputs differ in batch size \(a: 1, b: 2\)"):
        list(as_feeds([(one, two)], model))


def test_integer_inputs_take_what_fits_them():
    model = tiny.integers("int8")
    (feed,) = as_feeds([np.array([-128, 0, 127], np.int64)], model)
    assert feed["x"].dtype == np.int8
    with pytest.raises(DataError, match="its values from 0 to 200 don't fit int8"):
        list(as_feeds([np.array([0, 1, 200])], model))
    with pytest.raises(DataError, match="its dtype is float32; the model takes int8"):
        list(as_feeds([ONE], model))


@pytest.mark.parametrize("options", [{"limit": 0}, {"batch": 0}])
def test_counts_must_be_positive(options):
    with pytest.raises(DataError, match=r"(limit|batch) is 0; it must be at least 1"):
        rows([ONE], tiny.dense(), **options)


def test_known_length():
    assert known_length([1, 2]) == 2
    assert known_length(iter([1, 2])) is None

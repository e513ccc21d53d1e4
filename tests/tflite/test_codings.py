"""Codings of constants: each comes back bit for bit, takes the bytes that the format says, and damage is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from featherweight.errors import FormatError
from featherweight.graph import constant
from featherweight.graph.numerics import QuantParams
from featherweight.tflite import huffman
from featherweight.tflite.codings import CODINGS, decoded, encodings, huffman_together, obstacle

RANDOM = np.random.default_rng(0)
DENSE = RANDOM.normal(0, 30, (8, 3, 3, 4)).clip(-127, 127)
ZEROS = DENSE * (RANDOM.random(DENSE.shape) < 0.25)
FEW = np.round(DENSE / 25) * 25


def params(dtype, channels, axis):
    return QuantParams(dtype, (0.5,) * channels, (0,) * channels, axis)


def tensor(values, dtype, quant=None):
    return constant("w", values.astype(dtype), dtype, quant)


@pytest.mark.parametrize("values", [DENSE, ZEROS, FEW, np.full_like(DENSE, 3), np.zeros_like(DENSE)])
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "float32", "bool"])
@pytest.mark.parametrize(("channels", "axis"), [(0, None), (1, None), (8, 0), (4, 3)])
def test_what_is_encoded_comes_back(values, dtype, channels, axis):
    plain = tensor(values, dtype, params(dtype, channels, axis) if channels else None)
    found = encodings(plain)
    codings = {coded.coding for coded in found}
    assert codings >= ({"pruned"} if len(np.unique(plain.array)) > 128 else {"pruned", "lookup-table"})
    for coded in found:
        array = decoded(replace(plain, data=None), coded.values, coded.ancillary)
        assert array.dtype == plain.array.dtype
        np.testing.assert_array_equal(array, plain.array)


def test_floats_come_back_bit_by_bit():
    values = np.array([-0.0, 0.0, np.nan, np.inf, 1e-45, -0.0, 2.5, 2.5], np.float32)
    plain = constant("w", values)
    for coded in encodings(plain):
        array = decoded(replace(plain, data=None), coded.values, coded.ancillary)
        assert array.tobytes() == values.tobytes()


def test_the_bytes_are_those_of_the_format():
    plain = tensor(np.array([[3, 0, 0, 0], [0, 0, -2, 0]]), "int8", params("int8", 2, 0))
    rows, shared, codes, pruned = encodings(plain)
    assert rows.ancillary.tolist() == [0, 1, 0, 0, 1, 1, 2, *[0] * 9, 0, 3, 0, 254]  # (values are sorted by their bits)
    assert rows.values.tolist() == [0b10000010]
    assert shared.ancillary.tolist() == [0, 1, 0, 0, 1, 2, 0, *[0] * 9, 0, 3, 254]
    assert shared.values.tolist() == [0b01000000, 0b00001000]
    assert codes.ancillary[:6].tolist() == [1, 1, 0, 0, 1, 1 << 4]
    assert pruned.ancillary.tolist() == [2, 1, 0, 0, 1, *[0] * 11, 3, 254]
    assert pruned.values.tolist() == [0b10000010]


def test_huffman_decodes_the_example_of_the_runtime():
    """The stream and tables of tensorflow/lite/micro/kernels/decode_state_huffman_test.cc, facts of the format."""
    tables = [0x986D, 0x9861, 0x986A, 5, 0x0806, 0x0809, 14, 15, 0x886F, 0x8868, 0x8864, 0x8864, 0x9069, 0x9066, 0x8863,
              0x8863, 2, 0x906B, 0x8867, 0x886C, 0x8865, 0x8862, 0x8870, 0x886E]  # fmt: skip
    stream = bytes.fromhex("F00D79FC9C1A6E4C32AF29B35DF6360250158CA795DB29683FBAB7EDB119E2E0")
    found = huffman.decode(
        np.frombuffer(stream, np.uint8), np.array(tables, "<u2").view(np.uint8), 3, 64, huffman.NARROW
    )
    assert "".join(map(chr, found & 255)) == "nmmacnanefdacopjomeckifookhbdbdmjjdmjgojfecpbiibmanbbjbnlgjafejp"


def test_a_huffman_code_is_as_short_as_the_entropy_allows():
    values = np.repeat(np.arange(5), [64, 32, 16, 8, 8])
    (stream,), tables, first_bits = huffman.encode([values], huffman.NARROW)
    assert np.array_equal(huffman.decode(stream, tables, first_bits, 128, huffman.NARROW) & 255, values)
    bits = 64 * 1 + 32 * 2 + 16 * 3 + 16 * 4
    assert stream.size * 8 <= bits + 12 + 31
    assert tables.size == 2 * 2 * 4  # a table of two entries for each inner node, none of them twice


def test_deep_codes_come_back():
    counts = [1, 1]
    while len(counts) < 18:
        counts.append(counts[-1] + counts[-2])  # as lopsided as a code can be
    values = np.repeat(np.arange(18), counts).astype(np.uint8)
    RANDOM.shuffle(values)
    (stream,), tables, first_bits = huffman.encode([values], huffman.NARROW)
    assert np.array_equal(huffman.decode(stream, tables, first_bits, values.size, huffman.NARROW) & 255, values)


def test_constants_in_one_code_have_the_same_tables():
    parts = [tensor(part, "int8") for part in (ZEROS, FEW, DENSE)]
    together = huffman_together(parts)
    assert len({coded.ancillary.tobytes() for coded in together}) == 1
    for part, coded in zip(parts, together, strict=True):
        np.testing.assert_array_equal(decoded(part, coded.values, coded.ancillary), part.array)


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (tensor(ZEROS, "int8", QuantParams("int8", (0.5,), (3,))), "zero point"),
        (tensor(ZEROS, "int8", params("int8", 3, 1)), "along axis 1"),
        (tensor(ZEROS / 20, "int4"), "makes no int4"),
        (tensor(np.zeros(1), "int8"), "one value"),
        (tensor(np.zeros((0, 4)), "int8"), "one value"),
    ],
)
def test_what_has_no_form_is_said(plain, reason):
    assert reason in obstacle(plain)
    assert encodings(plain) == ()


@pytest.mark.parametrize("coding", CODINGS)
def test_damage_is_named(coding):
    plain = tensor(ZEROS, "int8")
    coded = next(c for c in encodings(plain) if c.coding == coding)
    for values, ancillary in (
        (coded.values[:4], coded.ancillary),
        (coded.values[:0], coded.ancillary),
        (coded.values, coded.ancillary[:17]),
        (coded.values, coded.ancillary[:3]),
        (coded.values, coded.ancillary[:0]),
    ):
        with pytest.raises(FormatError, match=r"'w' is encoded, and can't be decoded.*Use the file before"):
            decoded(plain, values, ancillary)
    huge = replace(plain, shape=(1 << 40, 1 << 20), data=None)
    with pytest.raises(FormatError, match="damaged"):
        decoded(huge, coded.values, coded.ancillary)


@pytest.mark.parametrize(("place", "value", "said"), [(0, 127, "coding 127"), (1, 2, "unknown"), (4, 9, "version 9")])
def test_codings_and_versions_of_others_are_named(place, value, said):
    plain = tensor(ZEROS, "int8")
    coded = encodings(plain)[-1]
    ancillary = coded.ancillary.copy()
    ancillary[place] = value
    with pytest.raises(FormatError, match=said):
        decoded(plain, coded.values, ancillary)

"""Huffman codes in the form that TFLite Micro's DECODE reads: a bit stream, and tables that it walks.

A table of 2^k entries is indexed by the next k bits. An entry is a symbol, with how many of the k bits it uses (the
rest is put back), or the way to another table. Source: tensorflow/lite/micro/kernels/decode_state_huffman.cc of
tensorflow/tflite-micro. The code is Huffman's (1952), and tables are as small as a tree can be cut into them.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# A table entry holds in 4 bits how many bits it is about.
_MOST_TABLE_BITS = 12
# Of more different values, the tables are no smaller than what they stand for.
_MOST_SYMBOLS = 2048
_WORD_BYTES = 4


class Layout(NamedTuple):
    """The bits of a table entry: a symbol's mark, a count, and a value of this many bits."""

    dtype: type[np.unsignedinteger]
    value_bits: int

    @property
    def found(self) -> int:
        """The bit that says that an entry is a symbol."""
        return 1 << (self.value_bits + 4)


# Entries for symbols of at most 8 bits, and for those of 16.
NARROW, WIDE = Layout(np.uint16, 11), Layout(np.uint32, 27)

# A node of the code's tree: a symbol, or two nodes.
_Tree = int | tuple["_Tree", "_Tree"]


def encode(symbols: Sequence[np.ndarray], layout: Layout) -> tuple[list[np.ndarray], np.ndarray, int] | None:
    """Returns (streams, tables, bits of the first table), all as bytes, in one code; None where that has no form.

    Args:
        symbols: whole numbers from 0 on, 1-D, with at least two different ones among them.
        layout: of the entries.
    """
    values, places, counts = np.unique(np.concatenate(symbols), return_inverse=True, return_counts=True)
    if not 2 <= len(values) <= _MOST_SYMBOLS:
        return None
    tree = _tree(counts.tolist())
    lengths, codes = _codes(tree, len(values))
    tables = _tables(tree, values, layout)
    if tables is None:
        return None
    entries, first_bits = tables
    parts = np.split(places, np.cumsum([part.size for part in symbols])[:-1])
    return [_stream(part, lengths, codes) for part in parts], entries.view(np.uint8), first_bits


def decode(stream: np.ndarray, tables: np.ndarray, first_bits: int, count: int, layout: Layout) -> np.ndarray:
    """Returns `count` symbols of a stream, as `layout.dtype`.

    Raises:
        IndexError: if stream or tables end too early.
    """
    entries = tables[: tables.size - tables.size % layout.dtype(0).itemsize].view(layout.dtype).tolist()
    padded = np.concatenate([stream, np.zeros(3, np.uint8)]).astype(np.int64)
    windows = ((padded[:-2] << 16) | (padded[1:-1] << 8) | padded[2:]).tolist()
    value_mask, symbols, position, end = (1 << layout.value_bits) - 1, list[int](), 0, 8 * stream.size
    for _ in range(count):
        bits, table = first_bits, 0
        while True:
            if position >= end:
                raise IndexError("the stream ends")
            table += (windows[position >> 3] >> (24 - bits - (position & 7))) & ((1 << bits) - 1)
            entry = entries[table]
            number = (entry >> layout.value_bits) & 15
            if entry & layout.found:
                position += number
                break
            position += bits
            table, bits = table + (entry & value_mask), number + 1
        symbols.append(entry & value_mask)
    return np.array(symbols, layout.dtype)


def _tree(counts: list[int]) -> _Tree:
    """Returns the tree of the shortest code; equal counts are joined in order, so that it is always the same."""
    heap: list[tuple[int, int, _Tree]] = [(count, symbol, symbol) for symbol, count in enumerate(counts)]
    heapq.heapify(heap)
    order = len(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (first[0] + second[0], order, (first[2], second[2])))
        order += 1
    return heap[0][2]


def _codes(tree: _Tree, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the length and the bits of each symbol's code."""
    lengths, codes = np.zeros(count, np.int64), np.zeros(count, np.int64)
    pending: list[tuple[_Tree, int, int]] = [(tree, 0, 0)]
    while pending:
        node, length, code = pending.pop()
        if isinstance(node, int):
            lengths[node], codes[node] = length, code
        else:
            pending += [(child, length + 1, 2 * code + bit) for bit, child in enumerate(node)]
    return lengths, codes


def _stream(places: np.ndarray, lengths: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns the codes of all symbols one behind the other, in whole words, with room for what is read ahead."""
    ends = np.cumsum(lengths[places])
    words = -(-(int(ends[-1]) + _MOST_TABLE_BITS) // (8 * _WORD_BYTES))
    bits = np.zeros(8 * _WORD_BYTES * words, np.uint8)
    for behind in range(int(lengths.max())):  # the last bit of every code, the one before it …
        has = lengths[places] > behind
        bits[ends[has] - 1 - behind] = (codes[places[has]] >> behind) & 1
    return np.packbits(bits)


def _tables(tree: _Tree, values: np.ndarray, layout: Layout) -> tuple[np.ndarray, int] | None:
    """Returns the entries of all tables, and the bits of the first; None where a way is too long for an entry."""
    known: dict[int, tuple[int, int]] = {}

    def cheapest(node: _Tree) -> tuple[int, int]:
        """Returns (entries of all tables below a node, minus the bits of its own): fewest entries, then most bits."""
        if id(node) in known:
            return known[id(node)]
        best, ends, at = None, 0, [node]
        for bits in range(1, _MOST_TABLE_BITS + 1):
            at = [child for parent in at if not isinstance(parent, int) for child in parent]
            ends = (1 << bits) + sum(cheapest(child)[0] for child in at if not isinstance(child, int))
            if best is None or (ends, -bits) < best:
                best = ends, -bits
            if all(isinstance(child, int) for child in at) or (1 << bits) > best[0]:
                break
        assert best is not None
        known[id(node)] = best
        return best

    entries: list[int] = []
    pending: list[tuple[_Tree, int]] = [(tree, -1)]  # a node, and the entry that leads to its table
    for node, origin in pending:
        bits, start = -cheapest(node)[1], len(entries)
        if origin >= 0:
            way = start - origin
            if way >= 1 << layout.value_bits:
                return None
            entries[origin] = (bits - 1) << layout.value_bits | way
        entries += [0] * (1 << bits)
        below: list[tuple[_Tree, int, int]] = [(node, 0, 0)]
        while below:
            one, length, code = below.pop()
            place = start + (code << (bits - length))
            if isinstance(one, int):
                entry = layout.found | length << layout.value_bits | int(values[one])
                entries[place : place + (1 << (bits - length))] = [entry] * (1 << (bits - length))
            elif length == bits:
                pending.append((one, place))
            else:
                below += [(child, length + 1, 2 * code + bit) for bit, child in enumerate(one)]
    return np.array(entries, layout.dtype), -cheapest(tree)[1]

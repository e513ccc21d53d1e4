"""Which values of an operator's input matter to what it computes: outside of an interval, its ends do as well.

A score far below the largest of its row has no part in a softmax, whether it is 50 below or −∞; what is below the
smallest result of a pooling was never chosen. So masks and paddings that stand for infinity need no room in a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from featherweight.graph import Node

Interval = tuple[float, float]
EVERYTHING: Interval = (-math.inf, math.inf)
NOTHING: Interval = (math.inf, -math.inf)
# Masks begin here: finite constants as large as this stand for infinity.
LARGEST_ORDINARY = 1e4


@dataclass(frozen=True)
class Reading:
    """One operator as it reads its inputs.

    Attributes:
        output: the values that matter of what it computes.
        inputs: the finite values that its inputs hold, (low, high) each; None where an input is absent or not real.
        infinite: for each input, whether it is a constant of nothing but infinities.
        partly_infinite: for each input, whether it is a constant that holds some.
        result: the finite values that its first output holds.
        peak: the smallest of the largest values of the rows that it reads, if that was measured.
        row: the number of values in a row.
        levels: the number of integers that a value can take.
    """

    node: Node
    output: Interval
    inputs: tuple[Interval | None, ...]
    infinite: tuple[bool, ...]
    partly_infinite: tuple[bool, ...]
    result: Interval
    peak: float | None
    row: int
    levels: int

    def other(self, position: int) -> Interval:
        """Returns the values of the other one of two operands."""
        return self.inputs[1 - position] or EVERYTHING


Rule = Callable[[Reading, int], Interval]


def of_moved(reading: Reading, position: int) -> Interval:
    """The same as of the output: values are handed on as they are."""
    return reading.output


def of_sum(reading: Reading, position: int) -> Interval:
    """x + z is at or below an end for every z where x is at or below the end minus the largest z."""
    (low, high), (least, largest) = reading.output, reading.other(position)
    return low - largest, high - least


def of_difference(reading: Reading, position: int) -> Interval:
    """The same for x − z."""
    (low, high), (least, largest) = reading.output, reading.other(position)
    return (low + least, high + largest) if position == 0 else (least - high, largest - low)


def of_product(reading: Reading, position: int) -> Interval:
    """x · z is at or beyond an end for every z that is not zero where it is for the smallest z that 8 bits tell."""
    least, largest = reading.other(position)
    # Beside numbers as large as masks, a factor is one of 0 and 1 and whatever else; all of it counts.
    if not max(abs(least), abs(largest)) < LARGEST_ORDINARY:
        return EVERYTHING
    step = (largest - least) / 255
    if least >= 0 and largest > 0:
        low, high = reading.output
    elif largest <= 0 and least < 0:
        high, low = (-end for end in reading.output)
    else:
        return EVERYTHING
    smallest = max(min(abs(least), abs(largest)), step)
    return (low / smallest, high / smallest) if low <= 0 <= high else EVERYTHING


def of_largest(reading: Reading, position: int) -> Interval:
    """What is below the smallest result was never the largest."""
    return max(reading.output[0], reading.result[0]), reading.output[1]


def of_smallest(reading: Reading, position: int) -> Interval:
    """What is above the largest result was never the smallest."""
    return reading.output[0], min(reading.output[1], reading.result[1])


def of_larger(reading: Reading, position: int) -> Interval:
    """What is below all values of the other operand is never the larger one."""
    if reading.partly_infinite[1 - position]:
        return reading.output
    return max(reading.output[0], reading.other(position)[0]), reading.output[1]


def of_smaller(reading: Reading, position: int) -> Interval:
    """What is above all values of the other operand is never the smaller one."""
    if reading.partly_infinite[1 - position]:
        return reading.output
    return reading.output[0], min(reading.output[1], reading.other(position)[1])


def of_softmax(reading: Reading, position: int) -> Interval:
    """So far below the largest score of a row that all of them together are half a step of the output."""
    if reading.peak is None:
        return EVERYTHING
    beta = float(reading.node.attrs.get("beta", 1.0)) or 1.0
    return reading.peak - math.log(2 * reading.levels * max(reading.row, 1)) / beta, math.inf


def of_exponential(reading: Reading, position: int) -> Interval:
    """The same below the largest exponent, of sums as long as a row."""
    if reading.result[1] <= 0:
        return EVERYTHING
    return math.log(reading.result[1]) - math.log(2 * reading.levels * max(reading.row, 1)), math.inf


def of_compared(reading: Reading, position: int) -> Interval:
    """A comparison with infinity asks for no room: the lowest integer stands for it."""
    return NOTHING if reading.infinite[1 - position] or reading.infinite[position] else EVERYTHING


def of_rectified(reading: Reading, position: int) -> Interval:
    """What is below zero counts as zero."""
    return max(reading.output[0], 0.0), reading.output[1]


def of_saturated(reading: Reading, position: int) -> Interval:
    """Beyond this, a sigmoid or hyperbolic tangent is less than half a step of its output from its end."""
    end = math.log(2 * reading.levels)
    return -end, end

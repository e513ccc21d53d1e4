"""The rewriting rules: JAX equations that the converter gets wrong or poor, and the operators they become.

| rule | without it |
|---|---|
| transposed convolution | silently wrong sizes for `same` padding |
| dense on arrays of ones, as in squeeze-and-excitation | refused |
| exact GELU | about forty elementwise operators |
| PReLU | five elementwise operators |
| softmax of attention | its maximum is subtracted before SOFTMAX subtracts it again |
| embedding lookup | twelve operators around GATHER_ND |
| the largest of a row, sorting | refused |
| bilinear resize | two BATCH_MATMUL and two TRANSPOSE |
| nearest resize | BROADCAST_TO |
| pooling over one or three dimensions | STABLEHLO_REDUCE_WINDOW, for which there is no integer kernel |
| a constant less a value, or over one | silently the other way around where a transposition comes before |
| one-dimensional convolution | bias, batch norm and activation stay behind a RESHAPE |
"""

from __future__ import annotations

from featherweight.lower.rewrites.activations import ACTIVATION_RULES
from featherweight.lower.rewrites.constants_first import CONSTANT_FIRST_RULES
from featherweight.lower.rewrites.dense import DENSE_RULE
from featherweight.lower.rewrites.engine import Rule
from featherweight.lower.rewrites.lifting import LIFTING_RULES
from featherweight.lower.rewrites.lookup import LOOKUP_RULE
from featherweight.lower.rewrites.pooling import POOLING_RULES
from featherweight.lower.rewrites.resizing import RESIZE_RULES
from featherweight.lower.rewrites.sorting import SORTING_RULES
from featherweight.lower.rewrites.transposed_conv import TRANSPOSED_CONV_RULE

# Tried in this order.
RULES: tuple[Rule, ...] = (
    TRANSPOSED_CONV_RULE,
    LOOKUP_RULE,
    DENSE_RULE,
    *SORTING_RULES,
    *RESIZE_RULES,
    *POOLING_RULES,
    *ACTIVATION_RULES,
    *LIFTING_RULES,
    *CONSTANT_FIRST_RULES,
)

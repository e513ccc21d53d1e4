"""What becomes of the axes of an operator's inputs, in one word: channels, batches and sizes are followed by it.

An operator's record says the word; what it means for channels, for the batch or for a cut shape is a function in the
module that follows them, registered by the word.

| word | the axes of the outputs |
|---|---|
| same | are those of the input: each output element comes from one element |
| joined | are those of all operands, broadcast: each output element comes from one element of each |
| window | are those of the input, (n, h, w, c); each pixel comes from a window of pixels, channel by channel |
| blocks | are those of the input, (n, h, w, c), with pixels of blocks as images, or images as pixels |
| normalization | are those of the input, whose last axis is normalized over |
| reduction | are those of the input but the ones that the second input names, which come together in one value |
| decision | the same, but the value is a truth or a position |
| convolution, depthwise | are images and pixels of the activation and the outputs of the weight |
| dense | are those of the activation, flattened or not, but the last, which the weight's outputs take the place of |
| product | are those of two matrices with leading axes, which broadcast |
| recurrent | are those of a sequence, (batch, time, units), or time first |
| gather | are those of a table, with those of the positions in place of one axis |
| slices | are those of the positions but the last, which counts axes of a table, then the table's others |
| lookup | are those of the first input, then others |
| selection | are those of the operands, with one condition for each element or for each index of the first axis |
| reshape | hold the same elements in the same order |
| squeeze, expand | are those of the input, without some or with one more of size 1 |
| transpose | are those of the input in another order |
| pad | are those of the input, with indices before and after |
| mirror | the same, with its own indices once more |
| concatenation | are those of the operands, which are one behind the other along one of them |
| pack, unpack | are those of the operands and one more, or those of the input without one |
| slice | are a span of those of the input |
| strided_slice | the same in steps, without some or with new ones |
| split | are those of the input, one of which is cut into equal parts |
| space_to_depth, depth_to_space | are those of the input, with pixels of blocks as channels, or channels as pixels |
| shape | are none of the input: the result says something about its shape |
| kept | can't be told: all channels that it reads are kept |

Empty is for operators that nothing is computed for: they have no reference kernel.
"""

from __future__ import annotations

from typing import Literal

AxesRule = Literal[
    "",
    "same",
    "joined",
    "window",
    "blocks",
    "normalization",
    "reduction",
    "decision",
    "convolution",
    "depthwise",
    "dense",
    "product",
    "recurrent",
    "gather",
    "slices",
    "lookup",
    "selection",
    "reshape",
    "squeeze",
    "expand",
    "transpose",
    "pad",
    "mirror",
    "concatenation",
    "pack",
    "unpack",
    "slice",
    "strided_slice",
    "split",
    "space_to_depth",
    "depth_to_space",
    "shape",
    "kept",
]

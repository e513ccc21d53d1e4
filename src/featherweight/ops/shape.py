"""Operators that move, repeat, join, cut or resize data. Source: LiteRT op_version.cc and kernels."""

from __future__ import annotations

from featherweight.ops.registry import ALL_INPUTS, register

for _name, _int8, _int16 in (
    ("RESHAPE", 1, 1),
    ("SQUEEZE", 1, 1),
    ("EXPAND_DIMS", 1, 1),
    ("TRANSPOSE", 2, 5),
    ("TILE", 3, 3),
    ("BROADCAST_TO", 3, 3),
    ("SPACE_TO_DEPTH", 2, None),
    ("DEPTH_TO_SPACE", 2, None),
    ("REVERSE_V2", 3, 3),
    ("MIRROR_PAD", 2, 3),
):
    _versions = {"int8": _int8} | ({} if _int16 is None else {"int16": _int16})
    register(_name, same_scale=(0,), moves_data=True, versions=_versions)

for _name, _int8, _int16 in (
    ("PAD", 2, 3),
    ("SLICE", 2, 4),
    ("STRIDED_SLICE", 2, 4),
    ("GATHER", 2, 4),
    ("GATHER_ND", 1, 3),
    ("SPACE_TO_BATCH_ND", 2, 4),
    ("BATCH_TO_SPACE_ND", 2, 4),
    ("UNPACK", 2, 4),
    ("SPLIT_V", 2, 1),
    ("RESIZE_BILINEAR", 2, 4),
    ("RESIZE_NEAREST_NEIGHBOR", 2, 4),
    ("CUMSUM", None, None),
    ("TOPK_V2", 2, 3),
):
    _versions = {"int8": _int8} | {"int16": _int16} if _int8 is not None else {}
    register(_name, same_scale=(0,), versions=_versions)

register("SPLIT", same_scale=(1,), versions={"int8": 2, "int16": 4})
register("PADV2", same_scale=(0, 2), versions={"int8": 2, "int16": 3})
register("DYNAMIC_UPDATE_SLICE", same_scale=(0, 1), versions={"int8": 1, "int16": 4})
for _name in ("CONCATENATION", "PACK"):
    register(_name, same_scale=ALL_INPUTS, versions={"int8": 2, "int16": 3})
for _name in ("SHAPE", "RANK", "ZEROS_LIKE", "FILL", "RANGE", "CAST"):
    register(_name)

"""What the user asks for: rules that give operators a scheme for their weights and activations.

A recipe is an ordered list of rules; the first rule that matches an operator decides. It comes by name (the shipped
ones lie in ``recipes/``), from a TOML file, or from Python.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from featherweight.arguments import choice, count, flag, instance, renamed, several, text, wrong
from featherweight.errors import RecipeError, listed
from featherweight.recipes.toml import Table, check_known, read_chain, shipped
from featherweight.tflite.names import OP_CODES

# Storage type → the settings that change something beside it.
WEIGHT_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "float16": (),
    "int8": ("per_channel", "grid"),
    "int4": ("per_channel", "block_size"),
}
ACTIVATION_SETTINGS: Mapping[str, tuple[str, ...]] = {"int8": ("ranges",), "int16": ("ranges",)}
# Type that weights are stored in → narrower ones whose steps they can have in it.
GRIDS: Mapping[str, tuple[str, ...]] = {"int8": ("int4",)}
DTYPES = tuple(dict.fromkeys((*ACTIVATION_SETTINGS, *WEIGHT_SETTINGS)))
# The methods that a file may name, before a colon and an argument; `featherweight.calibration` holds them.
RANGE_METHODS = ("minmax", "percentile", "mse", "entropy", "clip", "auto")
NUMBERED_RANGE_METHODS = ("percentile", "clip")


@renamed({"range_method": "ranges", "symmetric": None, "narrow_range": None})
@dataclass(frozen=True)
class Scheme:
    """How numbers are asked to be stored; `QuantParams` is what comes of it.

    Attributes:
        dtype: ``int8``, ``int16``, ``int4`` or ``float16``.
        per_channel: one scale per output channel instead of one per tensor, where the operator has an axis for it.
        block_size: one scale per so many consecutive elements of a dense layer's rows, or None.
        ranges: how a range is chosen from what was measured; None takes the caller's choice.
        grid: ``int4``: weights have the steps of this type, and are stored in the wider one: few different integers, of
            which what compresses weights makes less. The few beyond its range stay: the wider type has room for them.

    Zero points follow from the type, as the runtime's kernels want them: weights and int16 activations are symmetric
    (weights without the lowest integer), int8 activations are not.

    Raises:
        RecipeError: for a value that is not allowed, or that changes nothing on its type.

    >>> Scheme("int7")
    Traceback (most recent call last):
        ...
    featherweight.errors.RecipeError: Scheme: dtype is 'int7' (allowed: int8, int16, float16, int4).
    """

    dtype: str
    _: KW_ONLY
    per_channel: bool = True
    block_size: int | None = None
    ranges: str | None = None
    grid: str | None = None

    def __post_init__(self) -> None:
        choice(*DTYPES)(self.dtype, "Scheme: dtype")
        flag(self.per_channel, "Scheme: per_channel")
        if self.block_size is not None:
            count()(self.block_size, "Scheme: block_size")
        if self.ranges is not None and not (isinstance(self.ranges, str) and _names_range_method(self.ranges)):
            raise wrong(self.ranges, "Scheme: ranges", f"{listed(RANGE_METHODS)}, percentile:NUMBER, clip:NUMBER")
        if self.block_size is not None and "block_size" not in WEIGHT_SETTINGS.get(self.dtype, ()):
            raise RecipeError(f"Scheme: block_size has no effect on {self.dtype} (allowed on: int4). Drop it.")
        if self.grid is not None:
            choice(*GRIDS.get(self.dtype, ("nothing",)))(self.grid, f"Scheme: grid beside {self.dtype}")


@dataclass(frozen=True)
class Rule:
    """One line of a recipe. Without `weight` and `activation` it keeps what it matches float.

    Attributes:
        match: shell pattern for the operator's output or weight names (each ``;``-separated part counts).
        op: operator type, or None for any.
        weight_only: store the weights as integers but compute in float (a DEQUANTIZE before the operator).
        keep_small: leave small weights in a finer type where that costs few bytes (`ptq.forms.small_weights`).
        reason: what plans say of the operators that it decides, such as why it is there.

    Raises:
        RecipeError: for a value that is not allowed, or settings that do not go together.
    """

    match: str = "*"
    op: str | None = None
    weight: Scheme | None = None
    activation: Scheme | None = None
    weight_only: bool = False
    keep_small: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        text(self.match, "Rule: match")
        if not isinstance(self.reason, str) or self.reason:
            text(self.reason, "Rule: reason")
        flag(self.weight_only, "Rule: weight_only")
        flag(self.keep_small, "Rule: keep_small")
        for name, scheme, settings in (
            ("weight", self.weight, WEIGHT_SETTINGS),
            ("activation", self.activation, ACTIVATION_SETTINGS),
        ):
            if scheme is None:
                continue
            if not isinstance(scheme, Scheme):
                raise wrong(scheme, f"Rule: {name}", "a Scheme, or None for float", "Such as fw.Scheme('int8').")
            if scheme.dtype not in settings:
                raise wrong(scheme.dtype, f"Rule: the dtype of {name}", listed(settings))
        if self.op is not None:
            check_known(text(self.op, "Rule: op"), OP_CODES, "operator", "Rule")
        _check_together(
            "Rule", self.weight, self.activation, is_weight_only=self.weight_only, keeps_small=self.keep_small
        )

    def __str__(self) -> str:
        """The rule as a message names it."""
        return f"match='{self.match}'" + (f", op='{self.op}'" if self.op else "")


@dataclass(frozen=True)
class Recipe:
    """An ordered list of rules under a name.

    Raises:
        RecipeError: if the rules are no rules, or there are none.
    """

    name: str
    rules: tuple[Rule, ...]
    description: str = ""

    def __post_init__(self) -> None:
        text(self.name, "Recipe: name")
        rules = several(instance(Rule, way="Such as fw.Rule(weight=fw.Scheme('int8'))."), at_least=1)
        object.__setattr__(self, "rules", rules(self.rules, "Recipe: rules"))

    @property
    def needs_ranges(self) -> bool:
        """True if some rule quantizes activations, so that ranges must be measured."""
        return any(rule.activation is not None for rule in self.rules)


def available() -> tuple[str, ...]:
    """Returns the names of the shipped recipes.

    >>> available()
    ('dynamic', 'float16', 'grid4', 'int16x8', 'int8', 'w4a8', 'weights4', 'weights8')
    """
    return shipped("recipe")


def load(recipe: str | Path | Recipe) -> Recipe:
    """Returns a shipped recipe by name, or one from a TOML file; a `Recipe` is returned as it is.

    A file's own rules come before those of its `base`, whose path counts from the file's folder.

    Raises:
        RecipeError: if there is no such recipe, or its file is not a recipe.
    """
    if isinstance(recipe, Recipe):
        return recipe
    tables = read_chain(recipe, "recipe", "base")
    rules: list[Rule] = []
    for table in tables:
        table.check_keys(("base", "description", "name", "rule"))
        own = [_parse_rule(row) for row in table.rows("rule")]
        if not own and "base" not in table:
            raise RecipeError(f'{table.where} has no rules. Add a [[rule]], or a base such as "int8".')
        rules += own
    name = tables[0].get("name", str, Path(str(recipe)).stem)
    return Recipe(name, tuple(rules), tables[0].get("description", str, ""))


def _parse_rule(row: Table) -> Rule:
    row.check_keys(("activation", "keep_small", "match", "op", "reason", "weight", "weight_only"))
    op, is_weight_only = row.get("op", str, None), row.get("weight_only", bool, False)
    keeps_small = row.get("keep_small", bool, False)
    if op is not None:
        check_known(op, OP_CODES, "operator", row.where)
    weight = _parse_scheme(row, "weight", WEIGHT_SETTINGS)
    activation = _parse_scheme(row, "activation", ACTIVATION_SETTINGS)
    if activation is not None:
        activation = replace(activation, per_channel=False)
    _check_together(row.where, weight, activation, is_weight_only=is_weight_only, keeps_small=keeps_small)
    reason = row.get("reason", str, "")
    return Rule(row.get("match", str, "*"), op, weight, activation, is_weight_only, keeps_small, reason)


def _check_together(
    where: str, weight: Scheme | None, activation: Scheme | None, *, is_weight_only: bool, keeps_small: bool
) -> None:
    """Raises RecipeError for settings that do not go together."""
    if activation is not None and (is_weight_only or (weight and weight.dtype == "float16")):
        raise RecipeError(
            f"{where}: integer activations need integer weights. Drop `activation`, or use weight = 'int8'."
        )
    if is_weight_only and weight is None:
        raise RecipeError(f"{where}: weight_only has no effect without `weight`. Add weight = 'int8', or drop it.")
    if weight and weight.block_size and (activation or is_weight_only or not weight.per_channel):
        raise RecipeError(
            f"{where}, weight: block_size has no effect beside `activation`, `weight_only` or per_channel = false: "
            "block scales exist for float activations that the kernel quantizes itself. Drop one of them."
        )
    if keeps_small and (weight is None or weight.dtype == "float16" or (activation and weight.dtype == "int8")):
        raise RecipeError(
            f"{where}: keep_small has no effect here (allowed: with weight int4, or int8 beside float activations): "
            "there is no finer type for the weights. Drop it."
        )


def _parse_scheme(row: Table, key: str, settings: Mapping[str, tuple[str, ...]]) -> Scheme | None:
    """Reads a dtype, or a table of a dtype and its settings; float32 is the same as nothing."""
    value = row.values.get(key)
    if value is None:
        return None
    where = f"{row.where}, {key}"
    values = {"dtype": value} if isinstance(value, str) else value
    if isinstance(values, dict) and "range_method" in values:
        warnings.warn(
            f"{where}: 'range_method' is called 'ranges', and goes with the next version. Write ranges = .",
            DeprecationWarning,
            stacklevel=2,
        )
        values = {"ranges" if name == "range_method" else name: setting for name, setting in values.items()}
    fields = ("dtype", *dict.fromkeys(name for names in settings.values() for name in names))
    unknown = sorted(set(values) - set(fields)) if isinstance(values, dict) else [repr(value)]
    if unknown:
        raise RecipeError(
            f"{where}: {listed(unknown)} is not understood (allowed: a dtype, or a table of {listed(fields)})."
        )
    dtype = values.get("dtype")
    if not isinstance(dtype, str) or dtype not in (*settings, "float32"):
        raise RecipeError(f"{where}: dtype {dtype!r} is not one of {listed((*settings, 'float32'))}.")
    allowed = settings.get(dtype, ())
    if idle := [name for name in values if name not in ("dtype", *allowed)]:
        raise RecipeError(
            f"{where}: {listed(idle)} has no effect on {dtype} (allowed: {listed(allowed) or 'nothing'}). Drop it."
        )
    table = Table(values, where, row.remedy)
    ranges = table.get("ranges", str, None)
    if ranges is not None and not _names_range_method(ranges):
        raise table.error("ranges", f"{listed(RANGE_METHODS)}, percentile:NUMBER, clip:NUMBER")
    block_size = table.count("block_size") if "block_size" in table else None
    grid = table.choice("grid", GRIDS[dtype]) if "grid" in table else None
    if dtype == "float32":
        return None
    is_per_channel = table.get("per_channel", bool, True)
    return Scheme(dtype, per_channel=is_per_channel, block_size=block_size, ranges=ranges, grid=grid)


def _names_range_method(method: str) -> bool:
    name, colon, _ = method.partition(":")
    return name in RANGE_METHODS and (not colon or name in NUMBERED_RANGE_METHODS)

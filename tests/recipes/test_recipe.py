from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests import building

from featherweight.errors import RecipeError
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.recipes import recipe as recipes
from featherweight.recipes.matching import exactly, outdated_rules, resolve
from featherweight.recipes.recipe import Recipe, Rule, Scheme

NAMES = ("dynamic", "float16", "grid4", "int16x8", "int8", "w4a8", "weights4", "weights8")


def chain(*nodes: tuple[str, str]) -> Model:
    """Returns a chain of operators, each with a weight `<output>/kernel`: (operator, output) pairs."""
    tensors = {"x": Tensor("x", (1, 4), "float32")}
    made: list[Node] = []
    before = "x"
    for op, output in nodes:
        weight = f"{output.split(';')[0]}/kernel"
        tensors[output] = Tensor(output, (1, 4), "float32")
        tensors[weight] = Tensor(weight, (4, 4), "float32")
        made.append(Node(op, (before, weight), (output,)))
        before = output
    return Model((Graph("main", ("x",), (before,), tuple(made), tensors),))


MODEL = chain(("CONV_2D", "stem/conv"), ("FULLY_CONNECTED", "block_1/dense;block_1/relu"), ("FULLY_CONNECTED", "head"))
INT8 = Rule(weight=Scheme("int8"), activation=Scheme("int8"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def parsed(tmp_path: Path, text: str) -> Recipe:
    return recipes.load(write(tmp_path / "mine.toml", text))


# ------------------------------------------------------------------------------------------------ shipped recipes


def test_the_shipped_recipes() -> None:
    assert recipes.available() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_recipe_loads_and_says_what_it_is(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    assert 10 < len(recipe.description) < 120
    assert recipe.rules
    assert recipe.needs_ranges == (name in {"int8", "int16x8", "w4a8", "grid4"})
    assert ("needs samples" in recipe.description) == recipe.needs_ranges


def test_schemes_of_recipes() -> None:
    (int8,), (int16,) = recipes.load("int8").rules, recipes.load("int16x8").rules
    assert int8.activation == Scheme("int8", per_channel=False)
    assert int16.activation == Scheme("int16", per_channel=False)
    assert int8.weight == Scheme("int8", per_channel=True)


def test_a_recipe_is_returned_as_it_is() -> None:
    recipe = Recipe("mine", (INT8,))
    assert recipes.load(recipe) is recipe


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(
        RecipeError, match=rf"^Unknown recipe 'int7'\. Choose one of {', '.join(NAMES)}, or give the path"
    ):
        recipes.load("int7")


# ------------------------------------------------------------------------------------------------ files


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    recipe = parsed(
        tmp_path,
        """
        description = "most of it"
        [[rule]]
        match = "head"
        [[rule]]
        op = "FULLY_CONNECTED"
        weight = { dtype = "int4", block_size = 32 }
        [[rule]]
        weight = { dtype = "int8", per_channel = false }
        activation = { dtype = "int8", ranges = "mse" }
        """,
    )
    assert recipe.name == "mine"
    assert recipe.description == "most of it"
    assert recipe.rules[0] == Rule("head")
    assert recipe.rules[1] == Rule(op="FULLY_CONNECTED", weight=Scheme("int4", block_size=32))
    assert recipe.rules[2].weight == Scheme("int8", per_channel=False)
    assert recipe.rules[2].activation == Scheme("int8", per_channel=False, ranges="mse")


def test_a_base_comes_after_the_rules_of_the_file(tmp_path: Path) -> None:
    recipe = parsed(tmp_path, 'base = "int8"\n[[rule]]\nmatch = "head"')
    assert recipe.rules == (Rule("head"), *recipes.load("int8").rules)


def test_float32_says_the_same_as_nothing(tmp_path: Path) -> None:
    recipe = parsed(tmp_path, '[[rule]]\nweight = "float32"\nactivation = "float32"')
    assert recipe.rules == (Rule(),)


def test_a_missing_file() -> None:
    with pytest.raises(
        RecipeError, match=r"^Recipe 'missing\.toml' can't be read: .*No such file.* Compare it with a shipped"
    ):
        recipes.load("missing.toml")


@pytest.mark.parametrize("content", [b"[[rule]\n", b"rule = \n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"^Recipe '{path}' can't be read: .* Compare it with a shipped recipe"):
        recipes.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no rules\. Add a \[\[rule\]\], or a base such as"),
        ("rules = []", r"unknown key rules \(allowed: base, description, name, rule\)"),
        (
            '[[rule]]\nweigth = "int8"',
            r"rule 1: unknown key weigth \(allowed: activation, keep_small, match, op, reason, weight, weight_only\)",
        ),
        (
            '[[rule]]\n[[rule]]\nweight = "int7"',
            r"rule 2, weight: dtype 'int7' is not one of float16, int8, int4, float32",
        ),
        ('[[rule]]\nactivation = "int4"', r"rule 1, activation: dtype 'int4' is not one of int8, int16, float32"),
        (
            "[[rule]]\nweight = { bits = 8 }",
            r"rule 1, weight: bits is not understood \(allowed: a dtype, or a table of",
        ),
        ("[[rule]]\nweight = 8", r"rule 1, weight: 8 is not understood \(allowed: a dtype, or a table of"),
        ("[[rule]]\nweight = {}", r"rule 1, weight: dtype None is not one of float16, int8, int4, float32"),
        ('[[rule]]\nweight = "float16"\nactivation = "int8"', "rule 1: integer activations need integer weights"),
        ('[[rule]]\nweight_only = true\nactivation = "int8"', "rule 1: integer activations need integer weights"),
        ('base = "int7"', "^Unknown recipe 'int7'"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parsed(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "rule = 5",
        'rule = "int8"',
        "rule = [1]",
        '[rule]\nweight = "int8"',
        "[[rule]]\nmatch = 5",
        "[[rule]]\nop = 5",
        '[[rule]]\nop = ["CONV_2D"]',
        '[[rule]]\nweight = ["int8"]',
        '[[rule]]\nweight_only = "yes"\nweight = "int8"',
        '[[rule]]\nweight = { dtype = ["int8"] }',
        '[[rule]]\nweight = { dtype = "int8", per_channel = "no" }',
        '[[rule]]\nweight = { dtype = "int4", block_size = 0 }',
        '[[rule]]\nweight = { dtype = "int4", block_size = -32 }',
        '[[rule]]\nweight = { dtype = "int4", block_size = "32" }',
        '[[rule]]\nactivation = { dtype = "int8", ranges = "median" }',
        'name = 5\n[[rule]]\nweight = "int8"',
        'description = 5\n[[rule]]\nweight = "int8"',
        "base = 5",
    ],
)
def test_values_of_the_wrong_kind(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"mine\.toml|'5'"):
        parsed(tmp_path, text)


@pytest.mark.parametrize("text", ['base = "{}"\n[[rule]]\nweight = "int8"', 'base = "{}"'])
def test_a_recipe_that_is_its_own_base(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(RecipeError, match="base"):
        recipes.load(write(path, text.format(path)))


@pytest.mark.parametrize("op", ["CONV2D", "conv_2d", "Conv2D"])
def test_an_operator_that_does_not_exist(tmp_path: Path, op: str) -> None:
    with pytest.raises(RecipeError, match=f"'{op}'"):
        resolve(parsed(tmp_path, f'base = "int8"\n[[rule]]\nop = "{op}"\nweight = "int4"\nactivation = "int8"'), MODEL)


@pytest.mark.parametrize(
    "text",
    [
        'weight = { dtype = "int8", block_size = 32 }',  # blocks exist for int4 only
        'weight = { dtype = "int8", ranges = "mse" }',  # weights are not measured
        'weight = "int8"\nactivation = { dtype = "int8", block_size = 32 }',
        'weight = "int8"\nactivation = { dtype = "int8", per_channel = true }',
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="rule 1"):
        parsed(tmp_path, f"[[rule]]\n{text}")


# ------------------------------------------------------------------------------------------------ matching


def resolved(*rules: Rule) -> dict[str, Rule]:
    return resolve(Recipe("mine", rules), MODEL)


def test_the_first_match_wins() -> None:
    keep, conv = Rule("head"), Rule(op="CONV_2D", weight=Scheme("int4"))
    assert resolved(keep, conv, INT8) == {"stem/conv": conv, "block_1/dense;block_1/relu": INT8, "head": keep}
    assert set(resolved(INT8, keep).values()) == {INT8}


def test_nodes_without_a_rule_are_left_out() -> None:
    assert resolved(Rule("stem/*")) == {"stem/conv": Rule("stem/*")}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("block_1/dense;block_1/relu", {"block_1/dense;block_1/relu"}),  # the whole name
        ("block_1/relu", {"block_1/dense;block_1/relu"}),  # one of its parts
        ("block_1/*", {"block_1/dense;block_1/relu"}),
        ("*/kernel", {"stem/conv", "block_1/dense;block_1/relu", "head"}),  # the weight's name
        ("head/kernel", {"head"}),
        ("*conv*", {"stem/conv"}),
        ("[sh]*", {"stem/conv", "head"}),
        ("*", {"stem/conv", "block_1/dense;block_1/relu", "head"}),
    ],
)
def test_patterns(pattern: str, expected: set[str]) -> None:
    assert set(resolved(Rule(pattern))) == expected


def test_patterns_tell_upper_from_lower_case() -> None:
    with pytest.raises(RecipeError, match="matches no operator"):
        resolved(Rule("Head"))


def test_a_rule_finds_layers_by_the_names_that_reports_show_and_tensors_first() -> None:
    model = chain(("CONV_2D", "conv/general"), ("RELU", "conv/relu"), ("FULLY_CONNECTED", "dense/dot"))
    rules = {name: Rule(name) for name in ("conv", "dense/kernel", "conv/relu")}

    def found(*names: str) -> dict[str, Rule]:
        return resolve(Recipe("mine", tuple(rules[name] for name in names)), model)

    assert found("conv") == dict.fromkeys(("conv/general", "conv/relu"), rules["conv"])
    assert found("conv/relu", "conv") == {"conv/general": rules["conv"], "conv/relu": rules["conv/relu"]}
    assert found("conv/relu") == {"conv/relu": rules["conv/relu"]}
    # A tensor of that name goes before a layer.
    named = chain(("CONV_2D", "conv/general"), ("RELU", "conv"))
    assert resolve(Recipe("mine", (rules["conv"],)), named) == {"conv": rules["conv"]}


def test_pattern_and_operator_must_both_match() -> None:
    assert set(resolved(Rule("*e*", op="FULLY_CONNECTED"))) == {"block_1/dense;block_1/relu", "head"}
    with pytest.raises(RecipeError, match=r"rule 1 \(match='head', op='CONV_2D'\) matches no operator"):
        resolved(Rule("head", op="CONV_2D"))


def test_a_rule_that_matches_nothing() -> None:
    message = (
        r"^Recipe 'mine': rule 2 \(match='blok_1/\*'\) matches no operator\. Of its names, the "
        r"nearest are block_1/relu, block_1/dense, block_1/dense/kernel, .*; `featherweight inspect` lists them\.$"
    )
    with pytest.raises(RecipeError, match=message):
        resolved(INT8, Rule("blok_1/*"))


def test_an_error_lists_the_ten_nearest_names() -> None:
    model = chain(*(("FULLY_CONNECTED", f"encoder.layer.{n}.attention.self.query") for n in range(40)))
    with pytest.raises(
        RecipeError, match=r"nearest are encoder\.layer\.31\.attention\.self\.query, .*and \d+ more;"
    ) as said:
        resolve(Recipe("mine", (Rule("*layer.31.attention.self.qery"),)), model)
    assert str(said.value).count("encoder.layer.") == 10


def test_a_rule_behind_another_has_matched() -> None:
    assert resolved(INT8, Rule("head"))["head"] is INT8


def test_an_operator_type_that_the_model_lacks_is_no_error() -> None:
    # The shipped recipes have rules for operators that few models have.
    assert len(resolve(recipes.load("w4a8"), MODEL)) == 3


def test_rules_match_in_loop_bodies() -> None:
    body = chain(("FULLY_CONNECTED", "body/dense")).main
    rule = Rule("body/*")
    assert resolve(Recipe("mine", (rule,)), Model((MODEL.main, body))) == {"body/dense": rule}


def test_rules_put_before_others_win() -> None:
    int8 = recipes.load("int8")
    recipe = replace(int8, rules=(Rule("head"), *int8.rules))
    assert recipe.name == "int8"
    assert recipe.rules == (Rule("head"), *recipes.load("int8").rules)
    assert resolve(recipe, MODEL)["head"] == Rule("head")


def test_patterns_for_one_name_and_others_keep_their_order() -> None:
    rules = (
        Rule("he?d", weight=Scheme("int8")),
        Rule("head"),
        Rule("b[[]0]"),
        Rule("b[[]?]", weight=Scheme("int4")),
        Rule(),
    )
    names = ("head", "head[0]", "b[0]", "b[1]", "b0")
    nodes = [building.unary("RELU", "x", name, (1, 4)) for name in names]
    found = resolve(Recipe("mine", rules), building.net({"x": (1, 4)}, {}, nodes, list(names)))
    assert [rules.index(found[name]) for name in names] == [0, 4, 2, 3, 4]


# ----------------------------------------------------------------------------------------- steps of a narrower type


def test_weights_on_the_steps_of_a_narrower_type(tmp_path: Path) -> None:
    text = '[[rule]]\nweight = { dtype = "int8", grid = "int4" }\nactivation = "int8"'
    assert parsed(tmp_path, text).rules[0].weight == Scheme("int8", grid="int4")
    assert recipes.load("grid4").rules[1].weight == Scheme("int8", grid="int4")


@pytest.mark.parametrize("dtype", ["int4", "float16", "int16"])
def test_steps_that_a_type_has_not_are_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(RecipeError, match=f"grid beside {dtype} is 'int4'"):
        Scheme(dtype, grid="int4")
    with pytest.raises(RecipeError, match="dtype 'int16'" if dtype == "int16" else "grid has no effect on"):
        parsed(tmp_path, f'[[rule]]\nweight = {{ dtype = "{dtype}", grid = "int4" }}')
    with pytest.raises(RecipeError, match="int8"):
        Scheme("int8", grid="int8")


def named_after_layers() -> Model:
    """A dense layer with an activation behind it, named after its layer; tensors know what they were called."""
    former = {"dense/fully_connected": "dense/dot_general", "dense": "dense/erf", "dense/kernel": "dense/dot_general_1"}
    graph = chain(("FULLY_CONNECTED", "dense/fully_connected"), ("GELU", "dense"), ("FULLY_CONNECTED", "head")).main
    nodes = tuple(
        replace(n, inputs=tuple(i.replace("dense/fully_connected/kernel", "dense/kernel") for i in n.inputs))
        for n in graph.nodes
    )
    tensors = {
        (name := old.replace("dense/fully_connected/kernel", "dense/kernel")): replace(
            tensor,
            name=name,
            former_name=former.get(name),
            data=np.zeros(64, np.uint8) if name.endswith("/kernel") else None,
        )
        for old, tensor in graph.tensors.items()
    }
    return Model((replace(graph, nodes=nodes, tensors=tensors),))


def test_a_layers_name_is_about_all_of_it_and_an_exact_pattern_about_one_tensor() -> None:
    model = named_after_layers()
    whole, one = Rule("dense"), Rule(exactly("dense"))
    assert resolve(Recipe("mine", (whole,)), model) == dict.fromkeys(("dense/fully_connected", "dense"), whole)
    assert resolve(Recipe("mine", (one,)), model) == {"dense": one}
    assert outdated_rules(Recipe("mine", (whole, one)), model) == ()


def test_rules_still_match_former_names_and_a_note_says_so() -> None:
    model = named_after_layers()
    old = Rule("*dot_general*")
    assert resolve(Recipe("mine", (INT8, old)), model)["head"] is INT8
    assert resolve(Recipe("mine", (old, INT8)), model) == {
        "dense/fully_connected": old,
        "dense": INT8,
        "head": INT8,
    }
    (note,) = outdated_rules(Recipe("mine", (old,)), model)
    assert note.startswith("rules match by former names of tensors: '*dot_general*'. Name layers as")
    with pytest.raises(RecipeError, match="matches no operator"):
        resolve(Recipe("mine", (Rule("dense/dot"),)), model)

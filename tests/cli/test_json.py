"""What commands print with --json keeps the schema that is documented for it, and says which."""

from __future__ import annotations

import json

import jsonschema
import pytest
from tests.cli.calling import call, ok

from featherweight.cli import app
from featherweight.cli.json_shapes import SHAPES, schema

_SAMPLES = ("--calibration", "data.npz", "--data", "data.npz")
_PRUNED = ("prune", "model.tflite", "-o", "p.tflite")
CALLS = {
    "inspect": [("inspect", "q.tflite")],
    "prune": [
        (*_PRUNED, "--sparsity", "0.6"),
        (*_PRUNED, "--sparsity", "0.9", "--store", "sparse"),
        (*_PRUNED, "--sparsity", "0.5", "--pattern", "channel"),
    ],
    "cluster": [("cluster", "model.tflite", "-o", "c.tflite", "--clusters", "4")],
    "encode": [("encode", "q.tflite", "-o", "e.tflite")],
    "compare": [("compare", "model.tflite", "q.tflite", "--data", "data.npz")],
    "diagnose": [("diagnose", "model.tflite", "q.tflite", "--data", "data.npz", "--samples", "8")],
    "evaluate": [("evaluate", "q.tflite", "--data", "data.npz")],
    "benchmark": [
        ("benchmark", "model.tflite", "q.tflite", "--runs", "2"),
        ("benchmark", "q.tflite", "--runs", "2", "--by-operator"),
    ],
    "check": [("check", "model.tflite", "--target", "ethos-u55")],
    "curve": [("curve", "model.tflite", "--data", "data.npz", "--sparsities", "0.5,0.9")],
    "sensitivity": [("sensitivity", "model.tflite", *_SAMPLES, "--forms", "int8,w4a8")],
    "search": [("search", "model.tflite", "-o", "s.tflite", *_SAMPLES, "--max-drop", "0.5", "--max-bytes", "10")],
    "optimize": [("optimize", "model.tflite", "-o", "o.tflite", *_SAMPLES, "--min-sqnr", "200")],
    "prove": [("prove", "q.tflite", "--runtimes", "builtin,reference", "--vectors", "2")],
    "recipes": [("recipes",)],
    "targets": [("targets",)],
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_printed_keeps_the_schema(folder, name):
    ok("quantize", "model.tflite", "-o", "q.tflite", "--calibration", "data.npz")
    said = json.loads(ok("schema", name))
    jsonschema.Draft202012Validator.check_schema(said)
    for each in CALLS[name]:
        result = call(*each, "--json")
        assert result.exit_code in (0, 1), result.output
        found = json.loads(result.stdout)
        jsonschema.validate(found, said, cls=jsonschema.Draft202012Validator)
        assert (found["schema"], found["version"]) == (f"featherweight.{name}", 1)


def test_every_command_with_json_has_a_schema():
    import inspect

    printing = {
        info.callback.__name__
        for info in app.registered_commands
        if info.callback and "as_json" in inspect.signature(info.callback).parameters
    }
    assert printing == set(SHAPES) == set(CALLS) == set(ok("schema").split())


def test_fields_are_described_where_records_say_what_they_are():
    tried = schema("search")["$defs"]["Tried"]["properties"]
    assert tried["latency"]["description"].startswith("the median as a fraction of the float model's")
    assert schema("search")["$defs"]["Miss"]["properties"]["limit"] == {
        "type": "string",
        "description": "the name of that field of `Budget`.",
    }


def test_a_command_without_json_is_named():
    result = call("schema", "demo")
    assert result.exit_code == 2
    assert "'demo' prints no JSON (allowed: inspect, prune, cluster, compare" in " ".join(result.stderr.split())

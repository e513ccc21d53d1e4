"""improve= with a folder: a run that was ended goes on where it was, and a folder of something else is named."""

from __future__ import annotations

import fcntl
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.graph import Node, replace_graph
from featherweight.recipes import recipe as recipes
from featherweight.repair import improve
from featherweight.repair.candidate import Setting, integer_model, planned
from featherweight.repair.candidate_files import from_bytes, to_bytes
from featherweight.repair.improve import asked_repairs, divided
from featherweight.targets import target as targets

REPAIRS = ["gptq", "bias-correction", "weight-scales"]


@pytest.fixture(scope="module")
def model():
    return models.lowered("convnet")


def run(model, folder: Path | None = None, **changed):
    options = {
        "calibration": models.samples("convnet", 12),
        "improve": REPAIRS,
        "progress": False,
        "verify": False,
        **changed,
    }
    return fw.quantize(model, options.pop("recipe", "int8"), folder=folder, **options)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the repairs that are tried from now on; one beyond the second is interrupted, once."""
    names, real = list[str](), improve._tried

    def noting(setting, now, repair, *args, **kwargs):
        names.append(repair.name)
        if len(names) == 3:
            raise KeyboardInterrupt
        return real(setting, now, repair, *args, **kwargs)

    monkeypatch.setattr(improve, "_tried", noting)
    return names


def test_a_run_that_was_ended_loses_the_repair_in_progress_alone(model, tmp_path, tried):
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path)
    verdicts = json.loads((tmp_path / "improve.json").read_text())
    assert [attempt["name"] for attempt in verdicts["attempts"]] == REPAIRS[:2]
    assert verdicts["waiting"] == REPAIRS[2:]
    resumed = run(model, tmp_path)
    assert tried == [*REPAIRS, REPAIRS[2]]
    assert fw.write(resumed.model) == fw.write(run(model).model)
    assert [note.split(":")[1] for note in resumed.plan.notes if note.startswith("improve: ")] == [
        f" {name}" for name in REPAIRS
    ]


def test_a_run_that_ended_well_is_not_made_again(model, tmp_path, tried):
    first = run(model, tmp_path, improve=REPAIRS[:2])
    again = run(model, tmp_path, improve=REPAIRS[:2])
    assert len(tried) == 2
    assert again.plan == first.plan
    assert fw.write(again.model) == fw.write(first.model)
    assert len(list(tmp_path.glob("*.candidate"))) == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"calibration": models.samples("convnet", 13)}, "samples"),
        ({"recipe": "w4a8"}, "settings"),
        ({"improve": ["bias-correction"]}, "settings"),
        ({"target": "int8-per-tensor"}, "target"),
    ],
)
def test_what_differs_from_the_folder_is_named(model, tmp_path, changed, named):
    run(model, tmp_path, improve=REPAIRS[:1])
    with pytest.raises(fw.RecipeError, match=rf"keeps the repairs of something else: (\w+, )*{named}(, \w+)* differ"):
        run(model, tmp_path, **{"improve": REPAIRS[:1], **changed})


def test_a_folder_of_another_model_or_version_is_named(model, tmp_path, monkeypatch):
    run(model, tmp_path, improve=REPAIRS[:1])
    other = fw.equalize(model).model
    with pytest.raises(fw.RecipeError, match="something else: model differ"):
        run(other, tmp_path, improve=REPAIRS[:1])
    monkeypatch.setattr("featherweight.repair.fingerprints.package_version", lambda: "99")
    with pytest.raises(fw.RecipeError, match="something else: version differ"):
        run(model, tmp_path, improve=REPAIRS[:1])


@pytest.mark.parametrize(
    ("key", "value"),
    [("waiting", ["nothing"]), ("about", [1]), ("candidate", None), ("levels_db", [1.0]), ("format", 1)],
)
def test_verdicts_that_were_changed_by_hand_are_refused(model, tmp_path, key, value):
    run(model, tmp_path, improve=REPAIRS[:1])
    path = tmp_path / "improve.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(fw.RecipeError, match=r"keeps no repairs \((it is not what was written|format 1, not 2)\)"):
        run(model, tmp_path, improve=REPAIRS[:1])


@pytest.mark.parametrize("spoil", ["verdicts", "candidate", "missing"])
def test_damage_is_said_with_the_way_out(model, tmp_path, spoil):
    run(model, tmp_path, improve=REPAIRS[:1])
    path = tmp_path / "improve.json" if spoil == "verdicts" else next(tmp_path.glob("*.candidate"))
    if spoil == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(fw.RecipeError, match=r"keeps no repairs \(.*\)\. Delete '.*improve\.json' to begin anew"):
        run(model, tmp_path, improve=REPAIRS[:1])


def test_one_process_at_a_time_uses_a_folder(model, tmp_path):
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(fw.RecipeError, match="in use by another process"):
            run(model, tmp_path)


def test_a_folder_without_repairs_or_that_is_a_file_is_an_error(model, tmp_path):
    with pytest.raises(fw.RecipeError, match="folder keeps what comes of repairs, and none are asked for"):
        run(model, tmp_path, improve=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(fw.RecipeError, match="is no folder to keep repairs in"):
        run(model, tmp_path / "file")


def test_a_search_keeps_its_repairs_too(model, tmp_path, tried):
    samples = models.samples("convnet", 12)
    for _ in range(2):
        found = fw.search(
            model, calibration=samples, min_sqnr_db=5, improve=["equalize"], forms=["int8"], folder=tmp_path,
            progress=False,
        )  # fmt: skip
        assert found.best.fits
    assert tried == ["equalize"]


class _Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps(_Harmful()), pickle.dumps(np.zeros(3))])
def test_bytes_that_are_no_candidate_are_refused(content, capsys):
    with pytest.raises(fw.FormatError, match="they hold no repaired model"):
        from_bytes(content)
    assert not capsys.readouterr().out


def test_nodes_that_repairs_make_come_back():
    network = models.lowered("convnet")
    first, *others = network.main.nodes
    made = Node(first.op, first.inputs, first.outputs, first.attrs)
    changed = replace_graph(network, 0, replace(network.main, nodes=(made, *others)))
    before = planned(Setting(targets.load("litert"), (), ()), changed, recipes.load("dynamic"))
    found = from_bytes(to_bytes(before)).model.main.nodes[0]
    assert (found.op, found.inputs, dict(found.extras)) == (made.op, made.inputs, {})


def test_a_candidate_comes_back_as_it_was():
    network = models.lowered("convnet")
    samples, held_out = divided(models.samples("convnet", 10), network, None, is_auto=True)
    setting = Setting(targets.load("litert"), samples, held_out)
    (gptq,) = asked_repairs("gptq")
    before = gptq.apply(setting, planned(setting, network, recipes.load("w4a8")))
    assert not isinstance(before, str)
    after = from_bytes(to_bytes(before))
    assert after.plan == before.plan
    assert fw.write(integer_model(after)) == fw.write(integer_model(before))
    assert after.chosen is not None
    shared = [name for name, t in before.chosen.model.tensors.items() if t.data is before.model.tensors[name].data]
    assert [n for n, t in after.chosen.model.tensors.items() if t.data is after.model.tensors[n].data] == shared

from __future__ import annotations

import sys

import numpy as np
import pytest

from featherweight.analysis.datasets import load, parse_preprocess
from featherweight.errors import DataError

ONE = {"image": (-1, 4, 6, 3)}
TWO = {"left": (1, 2), "right": (1, 2)}
X = np.arange(24, dtype=np.float32).reshape(12, 2)


def write_images(folder, names, size=(6, 4), mode="RGB"):
    from PIL import Image

    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, index if mode == "L" else (index, 2 * index, 255)).save(path)


def test_npz_with_a_single_x(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(12))
    found = load(tmp_path / "d.npz", {"anything": (-1, 2)}, labels=True)
    assert np.array_equal(list(found.samples), X)
    assert found.labels.tolist() == list(range(12))
    assert len(found) == 12


def test_npz_named_after_the_input(tmp_path):
    np.savez(tmp_path / "d.npz", image=X)
    assert np.array_equal(load(tmp_path / "d.npz", ONE).samples, X)


def test_npz_of_several_inputs(tmp_path):
    np.savez(tmp_path / "d.npz", right=X + 1, left=X, y=np.zeros(12))
    found = load(tmp_path / "d.npz", TWO)
    samples = list(found.samples)
    assert (len(found), len(samples)) == (12, 12)
    assert samples[3]["left"].tolist() == [6, 7]
    assert samples[3]["right"].tolist() == [7, 8]


def test_an_input_called_y_is_no_label(tmp_path):
    np.savez(tmp_path / "d.npz", y=X)
    assert np.array_equal(load(tmp_path / "d.npz", {"y": (-1, 2)}).samples, X)


def test_npy(tmp_path):
    np.save(tmp_path / "d.npy", X)
    assert np.array_equal(load(tmp_path / "d.npy", ONE).samples, X)


@pytest.mark.parametrize(
    ("arrays", "inputs", "message"),
    [
        ({"left": X}, TWO, r"holds the arrays 'left', but the model's inputs are named 'left', 'right'\. Rename"),
        ({"z": X}, ONE, r"holds the arrays 'z', but the model's inputs are named 'image' or a single 'x'"),
        ({"left": X, "right": X[:5]}, TWO, r"differ in the number of samples \('left' 12, 'right' 5\)"),
        ({"x": X, "y": np.zeros(3)}, ONE, r"differ in the number of samples \('x' 12, 'y' 3\)"),
        ({"x": X[:0]}, ONE, r"the array 'x' holds no samples \(shape \[0, 2\]\)"),
        ({"x": np.array(["a"])}, ONE, "the array 'x' is of type <U1; it must hold numbers"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, inputs, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "d.npz", inputs)


def test_files_that_can_not_be_read(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    (tmp_path / "bad.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for name, message in [
        ("bad.npz", r"can't be read as a \.npz file"),
        ("bad.npy", r"can't be read as a \.npy file"),
        ("objects.npy", "holds Python objects; it must hold arrays of numbers"),
        ("none.npz", r"there is no such file \(allowed: a \.npz or \.npy file, a folder of images"),
        ("none", r"there is no such file \(allowed"),
    ]:
        with pytest.raises(DataError, match=message):
            load(tmp_path / name, ONE)
    (tmp_path / "d.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"the suffix '\.csv' is not known"):
        load(tmp_path / "d.csv", ONE)


@pytest.mark.parametrize(("name", "way"), [("d.npz", "an array 'y'"), ("d.npy", "a .npz with 'x' and 'y'")])
def test_missing_labels(tmp_path, name, way):
    (np.savez if name == "d.npz" else np.save)(tmp_path / name, X)
    if name == "d.npz":
        np.savez(tmp_path / name, x=X)
    with pytest.raises(DataError, match=f"has no labels, which a metric needs. Give it {way}"):
        load(tmp_path / name, ONE, labels=True)


def test_images_are_scaled_resized_and_sorted(tmp_path):
    write_images(tmp_path, ["b.png", "a.png", "c.jpg"], size=(12, 8))
    found = load(tmp_path, ONE, preprocess="0.5,-1")
    samples = list(found.samples)
    assert len(found) == 3
    assert samples[0].shape == (4, 6, 3)
    assert samples[0].dtype == np.float32
    assert samples[0][0, 0].tolist() == [-0.5, 0.0, 126.5]  # a.png was written second: (1, 2, 255)
    assert found.labels is None


def test_grey_images_and_free_sizes(tmp_path):
    write_images(tmp_path, ["a.png"], size=(5, 7), mode="RGB")
    found = load(tmp_path, {"x": (-1, -1, -1, 1)}, preprocess="1,0")
    assert next(iter(found.samples)).shape == (7, 5, 1)


def test_subfolders_are_classes(tmp_path):
    write_images(tmp_path, ["dog/1.png", "cat/1.png", "cat/2.png"])
    assert load(tmp_path, ONE, preprocess="1,0", labels=True).labels.tolist() == [0, 0, 1]
    write_images(tmp_path, ["stray.png"])
    with pytest.raises(DataError, match=r"has no labels.*subfolders named after the classes"):
        load(tmp_path, ONE, preprocess="1,0", labels=True)


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match="say how pixels become inputs with --preprocess scale,offset"):
        load(tmp_path, ONE)
    with pytest.raises(DataError, match=r"holds no images \(looked for \.png"):
        load(tmp_path, ONE, preprocess="1,0")
    with pytest.raises(DataError, match=r"fits models with one input of the shape .* has 'left' \[1, 2\], 'right'"):
        load(tmp_path, TWO, preprocess="1,0")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"broken\.png' can't be read as an image"):
        list(load(tmp_path, ONE, preprocess="1,0").samples)


@pytest.mark.parametrize("text", ["1", "1,2,3", "a,b", "", "nan,0"])
def test_preprocess_that_is_none(text):
    with pytest.raises(DataError, match="is not of the form scale,offset: two numbers"):
        parse_preprocess(text)


def test_preprocess_is_for_folders(tmp_path):
    np.save(tmp_path / "d.npy", X)
    with pytest.raises(DataError, match="--preprocess is for folders of images"):
        load(tmp_path / "d.npy", ONE, preprocess="1,0")


FUNCTIONS = """
import numpy as np
def samples(): return (np.full(2, i, np.float32) for i in range(3))
def pair(): return np.ones((3, 2), np.float32), [0, 1, 0]
def number(): return 3
def broken(): raise RuntimeError("no disk")
"""


def test_functions(tmp_path, monkeypatch):
    (tmp_path / "own_data_module.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data_module", raising=False)
    before = list(sys.path)
    assert [s.tolist() for s in load("own_data_module:samples", ONE).samples] == [[0, 0], [1, 1], [2, 2]]
    assert load("own_data_module:pair", ONE, labels=True).labels.tolist() == [0, 1, 0]
    assert sys.path == before
    for name, labels, message in [
        ("broken", False, "raised RuntimeError: no disk"),
        ("number", False, "returned a int; it must return an iterable of samples"),
        (
            "samples",
            True,
            r"returned a generator, but a metric needs labels as well: return the pair \(samples, labels\)",
        ),
        ("missing", False, "the module 'own_data_module' has no such name"),
    ]:
        with pytest.raises(DataError, match=message):
            load(f"own_data_module:{name}", ONE, labels=labels)

"""Loads samples and labels from what the command line calls DATA: .npz, .npy, a folder of images, a function."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.arguments.python_functions import find_function, is_reference
from featherweight.detections.truth import is_truth
from featherweight.errors import DataError, listed

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_FORMS = "a .npz or .npy file, a folder of images, or 'pkg.module:function'"

_log = logging.getLogger("featherweight")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples in the forms that `featherweight.calibrate` takes, with one label for each, or None.

    Labels are an array, or say what boxes are on the images in a form that `detections.as_truth` takes.
    """

    samples: Iterable[Any]
    labels: Any = None
    source: str = "data"

    def __len__(self) -> int:
        return len(self.samples)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, eq=False)
class NamedSamples:
    """Samples of several inputs: arrays by input name, all with the samples along their first axis."""

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for index in range(len(self)):
            yield {name: array[index] for name, array in self.arrays.items()}


@dataclass(frozen=True)
class ImageSamples:
    """Image files read one at a time as float32 (h, w, c): ``pixel * scale + offset``, resized to (h, w)."""

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    scale: float
    offset: float

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            from PIL import Image, UnidentifiedImageError
        except ModuleNotFoundError as error:
            raise DataError("Reading images needs Pillow. Install it: pip install 'featherweight[images]'.") from error
        height, width, channels = self.shape
        resized = 0
        for path in self.files:
            try:
                with Image.open(path) as image:
                    pixels = image.convert("L" if channels == 1 else "RGB")
            except (OSError, UnidentifiedImageError, ValueError) as error:
                raise DataError(f"'{path}' can't be read as an image: {error}. Repair or remove it.") from error
            if pixels.size != (width, height):
                pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
                resized += 1
            array = np.asarray(pixels, np.float32).reshape(height, width, channels)
            yield array * np.float32(self.scale) + np.float32(self.offset)
        if resized:
            _log.warning("%d of %d images were resized (bilinear) to %d×%d.", resized, len(self.files), height, width)


def load(
    data: str | Path,
    inputs: Mapping[str, tuple[int, ...]],
    *,
    preprocess: str | None = None,
    labels: bool = False,
) -> Dataset:
    """Returns the samples (and labels) that DATA names, for a model with these inputs (public name → shape).

    Args:
        data: the path of a .npz or .npy file or of a folder of images, or ``pkg.module:function``.
        inputs: public input name → shape with batch; -1 is a free size.
        preprocess: ``"scale,offset"`` for pixels 0..255 of an image folder: ``pixel * scale + offset``.
        labels: true if labels are needed: the array `y` of a .npz (or `boxes` and `classes`), the names of the image
            folder's subfolders (in alphabetical order: 0, 1, …), or the second half of the pair that a function
            returns.

    Raises:
        DataError: if there is no such data, it has another form, or labels are needed and missing.
    """
    text = str(data)
    path = Path(text)
    if preprocess is not None and not path.is_dir():
        raise DataError(f"--preprocess is for folders of images, but '{text}' is none. Scale the arrays beforehand.")
    if path.is_dir():
        dataset = _load_images(path, inputs, preprocess)
    elif path.suffix in {".npz", ".npy"}:
        dataset = _load_arrays(path, inputs)
    elif is_reference(text):
        return _call(text, labels)
    else:
        found = "there is no such file" if not path.exists() else f"the suffix '{path.suffix}' is not known"
        raise DataError(f"Data '{text}': {found} (allowed: {_FORMS}).")
    if labels and dataset.labels is None:
        way = "an array 'y'" if path.suffix == ".npz" else "subfolders named after the classes"
        way = "a .npz with 'x' and 'y'" if path.suffix == ".npy" else way
        raise DataError(f"Data '{text}' has no labels, which a metric needs. Give it {way}.")
    return dataset


def example(data: str | Path) -> Any:
    """Returns the first sample of DATA that is arrays or a function, with a batch dimension, for a model not known yet.

    It is an array, or a dict by the names that the data has; None where there is none, or it is a folder of images.

    Raises:
        DataError: as `load`.
    """
    path = Path(str(data))
    if path.suffix in {".npz", ".npy"} and not path.is_dir():
        arrays = _read_arrays(path)
        arrays.pop("y", None)
        first = {name: array[:1] for name, array in arrays.items() if array.ndim}
        return next(iter(first.values())) if len(first) == 1 else first or None
    return next(iter(_call(str(data), labels=False).samples), None) if is_reference(str(data)) else None


# ---------------------------------------------------------------------------------------------------------- arrays


def _load_arrays(path: Path, inputs: Mapping[str, tuple[int, ...]]) -> Dataset:
    arrays = _read_arrays(path)
    labels = None if "y" in inputs else arrays.pop("y", None)
    if labels is None and {"boxes", "classes"} <= set(arrays) - set(inputs):
        boxes = {name: arrays.pop(name) for name in ("boxes", "classes", "crowd") if name in arrays}
        return replace(_load_named(path, arrays, None, inputs), labels=boxes)
    return _load_named(path, arrays, labels, inputs)


def _load_named(
    path: Path, arrays: dict[str, np.ndarray], labels: np.ndarray | None, inputs: Mapping[str, tuple[int, ...]]
) -> Dataset:
    for name, array in {**arrays, **({} if labels is None else {"y": labels})}.items():
        if array.ndim == 0 or len(array) == 0:
            raise DataError(
                f"Data '{path}': the array '{name}' holds no samples (shape {list(array.shape)}). Give one at least."
            )
    counts = {name: len(array) for name, array in arrays.items()}
    if labels is not None:
        counts["y"] = len(labels)
    if len(set(counts.values())) > 1:
        found = listed(f"'{name}' {count}" for name, count in counts.items())
        raise DataError(f"Data '{path}': its arrays differ in the number of samples ({found}). Make them equal.")
    if len(inputs) == 1 and set(arrays) in ({"x"}, set(inputs)):
        return Dataset(next(iter(arrays.values())), labels, str(path))
    if set(arrays) != set(inputs):
        allowed = listed(f"'{name}'" for name in inputs) + (" or a single 'x'" if len(inputs) == 1 else "")
        raise DataError(
            f"Data '{path}' holds the arrays {listed(map(repr, arrays)) or 'none'}, but the model's inputs are "
            f"named {allowed}. Rename the arrays."
        )
    return Dataset(NamedSamples({name: arrays[name] for name in inputs}), labels, str(path))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        content = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"x": content}
        with content:
            arrays = {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise DataError(f"Data '{path}': there is no such file (allowed: {_FORMS}).") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise DataError(f"Data '{path}' holds Python objects; it must hold arrays of numbers.") from error
        reason = "its content is something else" if "pickle" in str(error) else error
        raise DataError(
            f"Data '{path}' can't be read as a {path.suffix} file: {reason}. Save it again with NumPy."
        ) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"Data '{path}': the array '{name}' is of type {array.dtype}; it must hold numbers.")
    return arrays


# ---------------------------------------------------------------------------------------------------------- images


def _load_images(folder: Path, inputs: Mapping[str, tuple[int, ...]], preprocess: str | None) -> Dataset:
    if preprocess is None:
        raise DataError(
            f"Data '{folder}' is a folder of images: say how pixels become inputs with --preprocess scale,offset "
            "(for example 0.00392157,0 for 0..1, or 0.00784314,-1 for -1..1)."
        )
    scale, offset = parse_preprocess(preprocess)
    shape = next(iter(inputs.values()))
    if len(inputs) != 1 or len(shape) != 4 or shape[3] not in {1, 3}:
        found = listed(f"'{name}' {list(s)}" for name, s in inputs.items())
        raise DataError(
            f"A folder of images fits models with one input of the shape (n, h, w, 1 or 3); this one has {found}. "
            "Use a .npz file, or 'pkg.module:function'."
        )
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise DataError(
            f"Data '{folder}' holds no images (looked for {', '.join(IMAGE_SUFFIXES)}). Give the folder that holds "
            "them, or one of a folder for each class."
        )
    height, width = _image_size(files[0], shape)
    samples = ImageSamples(tuple(files), (height, width, shape[3]), scale, offset)
    classes = sorted({p.relative_to(folder).parts[0] for p in files if p.parent != folder})
    labels = None
    if classes and all(p.parent != folder for p in files):
        number = {name: index for index, name in enumerate(classes)}
        labels = np.array([number[p.relative_to(folder).parts[0]] for p in files], np.int64)
    return Dataset(samples, labels, str(folder))


def _image_size(first: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """The model's own height and width; where they are free, those of the first image."""
    if shape[1] > 0 and shape[2] > 0:
        return shape[1], shape[2]
    from PIL import Image

    try:
        with Image.open(first) as image:
            return image.height, image.width
    except OSError as error:
        raise DataError(f"'{first}' can't be read as an image: {error}. Repair or remove it.") from error


def parse_preprocess(text: str) -> tuple[float, float]:
    """Returns (scale, offset).

    Raises:
        DataError: if the text is not two finite numbers with a comma between.

    >>> parse_preprocess("0.5,-1")
    (0.5, -1.0)
    """
    try:
        scale, offset = (float(part) for part in text.split(","))
    except ValueError:
        scale = offset = np.nan
    if not (np.isfinite(scale) and np.isfinite(offset)):
        raise DataError(f"--preprocess '{text}' is not of the form scale,offset: two numbers, such as 0.00392157,0.")
    return scale, offset


# ------------------------------------------------------------------------------------------------------- functions


def _call(reference: str, labels: bool) -> Dataset:
    result: Any
    try:
        result = find_function(reference, "Data")()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"Data '{reference}' raised {type(error).__name__}: {error}.") from error
    if isinstance(result, Dataset):
        dataset = result
    elif labels:
        if not isinstance(result, tuple) or len(result) != 2:
            raise DataError(
                f"Data '{reference}' returned a {type(result).__name__}, but a metric needs labels as well: return the "
                "pair (samples, labels)."
            )
        dataset = Dataset(result[0], result[1] if is_truth(result[1]) else np.asarray(result[1]), reference)
    else:
        dataset = Dataset(result, None, reference)
    if labels and dataset.labels is None:
        raise DataError(f"Data '{reference}' has no labels, which a metric needs. Return the pair (samples, labels).")
    if not isinstance(dataset.samples, Iterable):
        kind = type(dataset.samples).__name__
        raise DataError(f"Data '{reference}' returned a {kind}; it must return an iterable of samples.")
    return dataset

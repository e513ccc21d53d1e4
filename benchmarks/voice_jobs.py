"""A voice detector with state and a reader of words, quantized and compared in their closed loops; run as jobs."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_RATE, _CHUNK, _BEFORE = 16000, 512, 64
_UNITS, _EMBEDDED = 128, 256
_LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
_START, _END, _LONGEST = 2, 3, 20


def voice_detector(weights: str) -> dict[str, Any]:
    """Quantizes Silero's voice detector, and feeds each file's own states back to it, chunk after chunk.

    Args:
        weights: the wheel's safetensors.

    Returns:
        By what was done: SQNR in dB of the probabilities over sounds that calibration has not heard, how many decisions
        are the float model's, and bytes; `chunks`, and the share of them that is speech to the float model.
    """
    import featherweight as fw

    source = fw.load(_silero(Path(weights)))
    random = np.random.default_rng(0)
    seen: list[dict[str, np.ndarray]] = []
    for _ in range(6):
        _heard(source, _sound(random), seen)
    fed = [seen[i] for i in random.permutation(len(seen))[:200]]
    unheard = [_sound(random) for _ in range(10)]
    wanted = np.concatenate([_heard(source, sound) for sound in unheard])
    found: dict[str, Any] = {"chunks": len(wanted), "speech": float((wanted > 0.5).mean())}
    for name, recipe, improve in (("dynamic", "dynamic", None), ("int8", "int8", None), ("auto", "int8", "auto")):
        start = time.perf_counter()
        made = fw.quantize(source, recipe, calibration=fed, improve=improve, io="float32", progress=False)
        seconds = time.perf_counter() - start
        got = np.concatenate([_heard(made.model, sound) for sound in unheard])
        found[name] = {
            "sqnr_db": 10 * np.log10(float(np.square(wanted).sum()) / float(np.square(wanted - got).sum())),
            "agrees": float(((wanted > 0.5) == (got > 0.5)).mean()),
            "bytes": len(fw.tflite.write(made.model)),
            "seconds": seconds,
        }
    return found


def _silero(path: Path) -> Any:
    """Returns the detector as a Keras model of 576 samples and two states."""
    import keras
    from keras import layers, ops

    held = _safetensors(path)
    audio, hidden, cell = (keras.Input((n,), name=k) for k, n in (("audio", 576), ("h", _UNITS), ("c", _UNITS)))

    def conv(name: str, stride: int, values: Any) -> Any:
        kernel = held[f"{name}.weight"]
        has_bias = f"{name}.bias" in held
        layer = layers.Conv1D(len(kernel), kernel.shape[2], strides=stride, use_bias=has_bias, name=name)
        made = layer(layers.ZeroPadding1D(1)(values) if has_bias else values)
        layer.set_weights([kernel.transpose(2, 1, 0), *([held[f"{name}.bias"]] if has_bias else [])])
        return ops.relu(made) if has_bias else made

    def dense(kernel: np.ndarray, bias: np.ndarray, values: Any) -> Any:
        layer = layers.Dense(len(kernel))
        made = layer(values)
        layer.set_weights([kernel.T, bias])
        return made

    mirrored = ops.concatenate([audio, ops.flip(audio[:, -65:-1], axis=1)], axis=1)
    parts = conv("stft_conv", 128, ops.expand_dims(mirrored, -1))
    values = ops.sqrt(parts[:, :, :129] ** 2 + parts[:, :, 129:] ** 2)
    for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
        values = conv(name, stride, values)
    values = ops.reshape(values, (-1, _UNITS))
    gates = [
        dense(held[f"lstm_cell.weight_{k}h"], held[f"lstm_cell.bias_{k}h"], x)
        for k, x in zip("ih", (values, hidden), strict=True)
    ]
    into, forget, new, out = ops.split(gates[0] + gates[1], 4, axis=1)
    next_cell = ops.sigmoid(forget) * cell + ops.sigmoid(into) * ops.tanh(new)
    next_hidden = ops.sigmoid(out) * ops.tanh(next_cell)
    score = dense(held["final_conv.weight"][:, :, 0], held["final_conv.bias"], ops.relu(next_hidden))
    outputs = {"speech": ops.sigmoid(score), "h2": next_hidden, "c2": next_cell}
    return keras.Model([audio, hidden, cell], outputs)


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file: the length of a JSON header, that header, float32 values."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _heard(model: Any, sound: np.ndarray, seen: list[dict[str, np.ndarray]] | None = None) -> np.ndarray:
    """Returns the probability of speech of each chunk; `seen` takes what the model is fed."""
    from featherweight.runtime.litert import Session

    states = {"h": np.zeros((1, _UNITS), np.float32), "c": np.zeros((1, _UNITS), np.float32)}
    padded, found = np.concatenate([np.zeros(_BEFORE, np.float32), sound]), list[float]()
    with Session(model) as session:
        for start in range(0, len(sound) - _CHUNK, _CHUNK):
            fed = {"audio": padded[None, start : start + _BEFORE + _CHUNK], **states}
            if seen is not None:
                seen.append(fed)
            made = session.run(fed)
            states = {"h": made["h2"], "c": made["c2"]}
            found.append(float(made["speech"].ravel()[0]))
    return np.asarray(found)


def _sound(random: np.random.Generator) -> np.ndarray:
    """Returns three seconds: vowels (a voice's harmonics through three formants), hisses and pauses, in noise."""
    found = random.normal(0, 10 ** random.uniform(-4, -2.5), 3 * _RATE)
    at, pitch = int(random.integers(0, _RATE // 2)), random.uniform(90, 220)
    while at < len(found) - _RATE // 2:
        length = int(random.uniform(0.06, 0.25) * _RATE)
        seconds, kind = np.arange(length) / _RATE, random.random()
        if kind < 0.65:
            formants = (random.uniform(300, 800), random.uniform(900, 2200), random.uniform(2300, 3000))
            bend = 2 * np.pi * pitch * np.cumsum(1 + 0.1 * np.sin(2 * np.pi * seconds * random.uniform(1, 3))) / _RATE
            loud = [sum(1 / (1 + ((pitch * n - f) / 80) ** 2) for f in formants) + 0.01 for n in range(1, 30)]
            part = sum(level * np.sin(n * bend) / n**0.3 for n, level in enumerate(loud, 1))
        elif kind < 0.8:
            part = np.diff(random.normal(0, 1, length + 1)) * 0.3
        else:
            part = np.zeros(length)
        part = np.asarray(part) * np.hanning(length)
        found[at : at + length] += part * random.uniform(0.02, 0.2)
        at += length + (int(random.uniform(0.2, 0.6) * _RATE) if random.random() < 0.15 else 0)
    return found.astype(np.float32)


def word_reader(weights: str, words: int) -> dict[str, Any]:
    """Quantizes g2p-en's encoder and decoder steps as `weights4`, and reads words with them.

    Args:
        weights: the wheel's npz.
        words: how many to read; of the same source, none of them in calibration.

    Returns:
        By what was done: phonemes that differ from the float model's (edit distance), as a fraction, and bytes.
    """
    import featherweight as fw

    held = dict(np.load(weights))
    steps = [fw.load(_gru_step(held, kind)) for kind in ("enc", "dec")]
    known = _words()
    order = np.random.default_rng(0).permutation(len(known))
    tested, taught = [known[i] for i in order[:words]], [known[i] for i in order[words : words + 60]]
    fed: tuple[list[Any], list[Any]] = ([], [])
    _read(steps, taught, fed)
    random = np.random.default_rng(1)
    chosen = [[each[i] for i in random.permutation(len(each))[:256]] for each in fed]
    wanted = _read(steps, tested)
    found: dict[str, Any] = {"words": len(tested), "phonemes": sum(map(len, wanted))}

    def error(models: Sequence[Any]) -> float:
        return sum(map(_distance, _read(models, tested), wanted)) / found["phonemes"]

    found["min-max"] = {"error": error([_extremes(model) for model in steps])}
    for name, improve in (("weights4", None), ("repaired", ["gptq", "weight-scales"])):
        made = [
            fw.quantize(m, "weights4", calibration=f if improve else None, improve=improve, progress=False)
            for m, f in zip(steps, chosen, strict=True)
        ]
        found[name] = {
            "error": error([each.model for each in made]),
            "bytes": sum(len(fw.tflite.write(each.model)) for each in made),
        }
    return found


def _gru_step(held: Mapping[str, np.ndarray], kind: str) -> Any:
    """Returns one step as a Keras model: the number of a letter or phoneme, and the state, to the state and logits."""
    import keras
    from keras import layers, ops

    number, hidden = keras.Input((1,), dtype="int32", name="id"), keras.Input((_EMBEDDED,), name="h")
    table = held[f"{kind}_emb"]
    lookup = layers.Embedding(*table.shape)
    row = ops.reshape(lookup(number), (-1, _EMBEDDED))
    lookup.set_weights([table])

    def dense(kernel: np.ndarray, bias: np.ndarray, values: Any) -> Any:
        layer = layers.Dense(len(kernel))
        made = layer(values)
        layer.set_weights([kernel.T, bias])
        return made

    fed, kept = (
        ops.split(dense(held[f"{kind}_w_{k}h"], held[f"{kind}_b_{k}h"], values), 3, axis=1)
        for k, values in (("i", row), ("h", hidden))
    )
    reset, update = (ops.sigmoid(fed[i] + kept[i]) for i in (0, 1))
    new = ops.tanh(fed[2] + reset * kept[2])
    after = (1 - update) * new + update * hidden
    outputs = {"h2": after}
    if kind == "dec":
        outputs["logits"] = dense(held["fc_w"], held["fc_b"], after)
    return keras.Model([number, hidden], outputs)


def _extremes(model: Any) -> Any:
    """Returns the model with its matrices in 15 steps up to the largest weight of each row."""
    from featherweight.graph.editor import with_constants

    changed: dict[str, np.ndarray] = {}
    for tensor in model.main.tensors.values():
        values = tensor.array if tensor.is_constant and tensor.is_float else None
        if values is not None and values.ndim == 2:
            step = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 7, 1e-12)
            changed[tensor.name] = (np.rint(values / step) * step).astype(np.float32)
    return with_constants(model, changed)


def _words() -> list[str]:
    """Returns the words of Python's own help, in order."""
    text = " ".join(pydoc_data.topics.topics.values()).lower()
    return sorted(set(re.findall(r"(?<![\w.])[a-z]{4,14}(?![\w.])", text)))


def _read(
    steps: Sequence[Any], words: Sequence[str], fed: tuple[list[Any], list[Any]] | None = None
) -> list[list[int]]:
    """Returns the phonemes of words; `fed` takes what each step is fed."""
    from featherweight.runtime.litert import Session

    with Session(steps[0]) as encoder, Session(steps[1]) as decoder:
        return [list(_phonemes(encoder, decoder, word, fed)) for word in words]


def _phonemes(encoder: Any, decoder: Any, word: str, fed: tuple[list[Any], list[Any]] | None) -> Iterator[int]:
    hidden, number = np.zeros((1, _EMBEDDED), np.float32), _START
    for letter in [*word, "</s>"]:
        given = {"id": np.array([[_LETTERS.index(letter)]], np.int32), "h": hidden}
        if fed:
            fed[0].append(given)
        hidden = encoder.run(given)["h2"]
    for _ in range(_LONGEST):
        given = {"id": np.array([[number]], np.int32), "h": hidden}
        if fed:
            fed[1].append(given)
        made = decoder.run(given)
        hidden, number = made["h2"], int(made["logits"].argmax())
        if number == _END:
            return
        yield number


def _distance(one: Sequence[int], another: Sequence[int]) -> int:
    """Returns how many phonemes are added, left out or changed, at the least."""
    row = list(range(len(another) + 1))
    for i, x in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(another, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]

"""What is measured of models with float activations and of a sentence encoder with wide places; run as jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

_LENGTH = 64


def convert_tensorflow_dynamic(model: str, out: str) -> dict[str, Any]:
    """Converts the `.keras` file beside a float file with int8 weights and float activations."""
    from benchmarks import peers

    Path(out).write_bytes(peers.tensorflow_dynamic(str(Path(model).with_suffix(".keras"))))
    return {}


def quantize_without_data(model: str, out: str, recipe: str) -> dict[str, Any]:
    """Quantizes by a recipe that needs no samples."""
    import featherweight as fw

    return {"bytes": fw.quantize(model, recipe, verify=False).save(out)}


def encoder_data(out: str, sentences: str, calibration: int, unseen: int) -> dict[str, Any]:
    """Lowers all-MiniLM-L6-v2 with 64 tokens; writes it and encoded sentences (ids, mask), those to calibrate first."""
    import featherweight as fw
    from benchmarks.architectures import sentence_encoder
    from featherweight import tflite

    module, tokenizer = sentence_encoder.encoder("eager", _LENGTH)
    lines = list(sentence_encoder.docstring_sentences())
    chosen = np.random.default_rng(0).choice(len(lines), calibration + unseen, replace=False)
    encoded = [tokenizer.encode(lines[index]) for index in chosen]
    ids, mask = np.int32([text.ids for text in encoded]), np.int32([text.attention_mask for text in encoded])
    tflite.save(fw.load(module, samples=[(ids[:1], mask[:1]), (ids[1:2], mask[1:2])]), out)
    np.savez(sentences, ids=ids, mask=mask)
    return {}


def quantize_encoder(
    model: str, sentences: str, out: str, recipe: str, improve: list[str], calibration: int
) -> dict[str, Any]:
    """Quantizes the encoder, with repairs; returns the seconds, the bytes and what the plan says of the repairs."""
    import featherweight as fw

    fed = _feeds(model, sentences)[:calibration]
    start = time.perf_counter()
    made = fw.quantize(model, recipe, calibration=fed, improve=improve or None, verify=False, progress=False)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "bytes": made.save(out),
        "notes": [note for note in made.plan.notes if note.startswith(("improve", "wide places"))],
    }


def encoder_scores(files: dict[str, str], sentences: str, skipped: int, size: int) -> dict[str, Any]:
    """Returns per file SQNR in dB, mean cosine, and how many sentences have the nearest neighbour of the float file.

    The first file is the float one. Neighbours are looked for in sets of `size` sentences, each of which has its share.
    """
    outputs = {name: _vectors(file, _feeds(file, sentences)[skipped:]) for name, file in files.items()}
    wanted = next(iter(outputs.values()))
    found: dict[str, Any] = {}
    for name, vectors in outputs.items():
        error = float(np.square(vectors - wanted).sum(dtype=np.float64))
        found[name] = {
            "sqnr_db": 10 * np.log10(float(np.square(wanted).sum(dtype=np.float64)) / error) if error else None,
            "cosine": float((_unit(vectors) * _unit(wanted)).sum(axis=1).mean()),
            "neighbours": [
                float((_nearest(vectors[start:][:size]) == _nearest(wanted[start:][:size])).mean())
                for start in range(0, len(wanted), size)
            ],
        }
    return found


def _feeds(file: str, sentences: str) -> list[dict[str, np.ndarray]]:
    from featherweight import tflite
    from featherweight.graph import io_names

    first, second = io_names(tflite.read(file))[0]
    with np.load(sentences) as arrays:
        return [{first: i, second: m} for i, m in zip(arrays["ids"][:, None], arrays["mask"][:, None], strict=True)]


def _vectors(file: str, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    from featherweight.runtime.litert import Session

    with Session(file) as session:
        return np.concatenate([next(iter(session.run(feed).values())) for feed in feeds])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _nearest(vectors: np.ndarray) -> np.ndarray:
    alike = _unit(vectors) @ _unit(vectors).T
    np.fill_diagonal(alike, -np.inf)
    return alike.argmax(axis=1)

"""Architectures that people have, as tiny configurations: lowered, quantized in every recipe and run by LiteRT.

LiteRT runs in a process of its own: an abort is a failed test. The roster of `benchmarks.architectures` is larger.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.architectures import inputs, modules, sense_nets, text_nets
from benchmarks.architectures.record import CALIBRATION, SAMPLES, Built
from benchmarks.architectures.steps import same_integers
from tests.ptq import litert_worker

import featherweight as fw
from featherweight.runtime.litert import with_outputs
from featherweight.runtime.reference import computed_tensors
from featherweight.tasks.load import load_with_notes

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]

RECIPES = ("float16", "dynamic", "int8", "int16x8")
# Least SQNR in dB at the outputs; random weights amplify errors more than trained ones.
LEAST_DB = {"float16": 50.0, "dynamic": 18.0, "int8": 20.0, "int16x8": 20.0}
# LiteRT's kernels and the profile that is theirs.
KERNELS = {"int8": ("auto", "xnnpack"), "int16x8": ("no_delegate", "tflite_opt")}
_HELD_OUT = 4
# Tokens of zeros: their layer norms amplify every error, and 16 bits once aborted LiteRT.
ZERO_TOKENS = "yolos with tokens of zeros"


def resnet() -> Built:
    """Torchvision's stem, whose max pool is padded, a block with a shortcut of its own, and one without."""
    torch = modules.seeded()
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, channels: int, out: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
            self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
            self.downsample = None
            if channels != out:
                self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    stem = (nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    images = inputs.images(SAMPLES, 32)
    module = nn.Sequential(*stem, Block(16, 16, 1), Block(16, 32, 2), *head)
    return modules.built(module, [image[None] for image in images], inputs.images(32, 32, seed=1))


def masked_encoder(kind: str) -> Built:
    """Torch's own encoder layer over vectors, with a causal mask, or with one of the padding that is an input."""
    torch = modules.seeded()

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.head = torch.nn.Linear(32, 8)

    class Causal(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.nn.Transformer.generate_square_subsequent_mask(12))

        def forward(self, x: Any) -> Any:
            return self.head(self.layer(x, src_mask=self.mask, is_causal=True))

    class Padded(Encoder):
        def forward(self, x: Any, words: Any) -> Any:
            return self.head(self.layer(x, src_key_padding_mask=words == 0))

    random = np.random.default_rng(0)
    x = random.normal(size=(SAMPLES, 1, 12, 32)).astype(np.float32)
    if kind == "causal":
        return modules.built(Causal(), list(x))
    return modules.built(Padded(), list(zip(x, inputs.masks(SAMPLES, 12)[:, None], strict=True)))


_ONE = {"num_hidden_layers": 1}
_SMALL_SWIN = {"image_size": 16, "embed_dim": 32, "depths": [2], "num_heads": [2]}
NETS: dict[str, Callable[[], Built]] = {
    "bert": partial(text_nets.build, "bert", masked=False, **_ONE),
    "bert with padding": partial(text_nets.build, "bert", masked=True, attention="eager", **_ONE),
    "gpt2": partial(text_nets.build, "gpt2", masked=False, n_layer=1),
    "t5 encoder": partial(text_nets.build, "t5_encoder", masked=False, num_layers=1),
    "vit": partial(sense_nets.build, "vit", **_ONE),
    "whisper encoder": partial(sense_nets.build, "whisper_encoder", encoder_layers=1),
    "wav2vec2": partial(sense_nets.build, "wav2vec2", **_ONE),
    "yolos": partial(sense_nets.build, "yolos", **_ONE),
    ZERO_TOKENS: partial(sense_nets.build, "yolos", has_drawn_zeros=False, **_ONE),
    "swin": partial(sense_nets.build, "swin", **_SMALL_SWIN),
    "convnext": partial(sense_nets.build, "convnext", num_stages=2, hidden_sizes=[16, 32], depths=[1, 1]),
    "resnet": resnet,
    "causal encoder": partial(masked_encoder, "causal"),
    "padded encoder": partial(masked_encoder, "padded"),
}


OWN = {"int8_weights": fw.Recipe("int8_weights", (fw.Rule(weight=fw.Scheme("int8")),))}


class Net:
    """An architecture, lowered once; what its recipes give is computed once, and a failure raised for each."""

    def __init__(self, name: str, folder: Path) -> None:
        built = NETS[name]()
        self.name, self.samples, self.folder = name, built.samples, folder
        self.held_out = built.samples[CALIBRATION : CALIBRATION + _HELD_OUT]
        self.expected = [built.run(sample)[0] for sample in self.held_out]
        self.lowered = load_with_notes(built.source, samples=built.samples[:2])
        self.quantized = functools.cache(self._quantized)
        self.sqnr_db = functools.cache(self._sqnr_db)

    def _quantized(self, recipe: str) -> fw.Quantized:
        return fw.quantize(
            self.lowered, OWN.get(recipe, recipe), calibration=self.samples[:CALIBRATION], progress=False
        )

    def _sqnr_db(self, recipe: str) -> float:
        content = fw.write(self.quantized(recipe).model)
        jobs = {f"{recipe}{i}": (content, _arrays(sample), ("auto",)) for i, sample in enumerate(self.held_out)}
        found = [outputs[0] for outputs in self.run(jobs)]
        noise = sum(np.square(np.float64(a) - b).sum() for a, b in zip(self.expected, found, strict=True))
        signal = sum(np.square(np.float64(a)).sum() for a in self.expected)
        return float(10 * np.log10(signal / max(noise, 1e-300)))

    def run(self, jobs: litert_worker.Jobs) -> list[list[np.ndarray]]:
        results = litert_worker.run_all(jobs, self.folder).values()
        for found in results:
            assert not isinstance(found, str), f"LiteRT: {found}"
        return [found for found in results if not isinstance(found, str)]


def _arrays(sample: Any) -> list[np.ndarray]:
    return list(sample) if isinstance(sample, tuple) else [sample]


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Net:
    return Net(request.param, tmp_path_factory.mktemp("net"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_in_litert_and_is_close_to_the_source(net: Net, recipe: str) -> None:
    least = LEAST_DB[recipe] if net.name != ZERO_TOKENS else min(LEAST_DB[recipe], 10.0)
    assert net.sqnr_db(recipe) >= least


def test_sixteen_bits_are_no_worse_than_dynamic(net: Net) -> None:
    # These nets are so small that `dynamic` would leave most of their weights float.
    assert net.sqnr_db("int16x8") >= net.sqnr_db("int8_weights") - 1


@pytest.mark.parametrize("recipe", KERNELS)
def test_reference_kernels_give_the_integers_of_litert(net: Net, recipe: str) -> None:
    resolver, profile = KERNELS[recipe]
    model, sample = net.quantized(recipe).model, net.held_out[0]
    names = computed_tensors(model.main)
    job = fw.write(with_outputs(model, names)), _arrays(sample), (resolver,)
    (right,) = net.run({f"{recipe}-all": job})
    counts = same_integers(model, sample, dict(zip(names, right, strict=True)), profile)
    assert counts["elements"] > 0
    assert counts["differing"] == 0, counts

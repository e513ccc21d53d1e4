"""Torch modules: one conversion, a free batch wherever the code allows one, and names that are the module's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.lower.support import ops

import featherweight as fw
from featherweight.errors import LoweringError
from featherweight.lower import lower_with_notes, torch_converter
from featherweight.lower.checking import Lowered
from featherweight.runtime import run

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")
nn = torch.nn
pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]


class Windows(nn.Module):
    """Swin's: the batch is merged with the windows, and its attention with the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())])

    def forward(self, x: Any) -> Any:
        b = x.shape[0]
        x = x.reshape(b, 2, 4, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(b * 4, 16, 8)
        q, k, v = (f(x).reshape(b * 4, 16, 2, 4).transpose(1, 2) for f in (self.query, self.key, self.value))
        x = (torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).reshape(b * 4, 16, 8)
        x = x.reshape(b, 2, 2, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(b, 8, 8, 8)
        for layer in self.layers:
            x = layer(x)
        return x


class Gated(nn.Module):
    """Efficient channel attention, of which the converter refused the product."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv1d(1, 1, 3, padding=1), nn.Conv2d(8, 8, 3)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        gate = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1)).sigmoid().view(x.shape[0], -1, 1, 1)
        return self.head(x * gate.expand_as(x))


class Embedded(nn.Module):
    """Positions and a mask that are computed from constants, once for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(50, 8), nn.Embedding(6, 8)

    def forward(self, tokens: Any) -> Any:
        places = torch.arange(6)[None].expand(tokens.shape[0], -1)
        allowed = (places[:, None, :] <= places[:, :, None]).expand(-1, 6, 6)
        x = self.table(tokens) + self.places(places)
        return torch.where(allowed, x @ x.transpose(1, 2), torch.zeros(())).sum(-1)


class ConstantsFirst(nn.Module):
    """Constants less what was transposed, and over it; the layouts of convolutions are transposed too."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(5, 6))
        self.register_buffer("shift", torch.randn(6))
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3)

    def forward(self, x: Any) -> Any:
        y = x[:, 0].transpose(1, 2)
        gated = self.second((1 - torch.sigmoid(self.first(x))) * 2)
        differences = (
            1 - y,
            self.scale - y,
            self.shift - y,
            torch.rsub(y, self.scale),
            torch.sub(self.scale, y, alpha=3),
        )
        quotients = (self.scale / y, 1 / y, 2 / y, torch.ones_like(y) / y, 5 / y.int())
        return gated, *differences, *quotients, 3 - (9 * y).int()


class Token(nn.Module):
    """A class token in front of every sample, and some behind it, as ViT and YOLOS have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 2, 8))
        self.dense = nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        count = x.shape[0]
        return self.dense(torch.cat([self.first.expand(count, -1, -1), x, self.last.expand(count, -1, -1)], 1))


class OwnRows(nn.Module):
    """Each sample's mask looked up by the sample's number, as transformers does it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 6)

    def forward(self, x: Any) -> Any:
        number, row = torch.arange(x.shape[0])[:, None, None], torch.tensor([4, 0, 2])[None, None]
        return (x.sum(-1) > 0)[number, row][..., 1:] * self.dense(x)[..., :2]


class OneSample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(12, 24)

    def forward(self, x: Any) -> Any:
        return self.dense(x).reshape(1, 6, 24).mean(1)


def _lowered(module: Any, sample: Any) -> Lowered:
    torch.manual_seed(0)
    return lower_with_notes(module.eval(), samples=[sample])


def _agrees(lowered: Lowered, module: Any, x: Any) -> None:
    fed = x.numpy().astype("int32") if x.dtype == torch.int64 else x.numpy()
    with torch.no_grad():
        np.testing.assert_allclose(run(lowered.model, fed), module(x).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("module", "sample", "batch"),
    [
        (Windows(), torch.randn(1, 8, 8, 8), torch.randn(5, 8, 8, 8)),
        (Gated(), torch.randn(1, 3, 20, 20), torch.randn(4, 3, 20, 20)),
        (Embedded(), torch.randint(0, 50, (1, 6)), torch.randint(0, 50, (4, 6))),
        (Token(), torch.randn(1, 5, 8), torch.randn(4, 5, 8)),
        (OwnRows(), torch.randn(1, 5, 8), torch.randn(4, 5, 8)),
    ],
    ids=["windows", "gated", "embedded", "token", "own rows"],
)
def test_one_conversion_frees_the_batch(module: Any, sample: Any, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    converted, real = list[int](), torch_converter.convert
    monkeypatch.setattr(torch_converter, "convert", lambda *args: converted.append(args[1][0].shape[0]) or real(*args))
    lowered = _lowered(module, sample)
    assert (converted, lowered.notes) == ([2], ())
    main = lowered.model.main
    assert main.tensors[main.inputs[0]].shape_signature == (-1, *sample.shape[1:])
    _agrees(lowered, module, sample)
    _agrees(lowered, module, batch)
    assert "BROADCAST_TO" not in ops(lowered.model)


def test_layers_keep_their_own_names() -> None:
    main = _lowered(Windows(), torch.randn(1, 8, 8, 8)).model.main
    dense = [node.name for node in main.nodes if node.op == "FULLY_CONNECTED"]
    assert sorted(dense) == ["key", "layers.0", "output", "query", "value"]
    assert next(node.name for node in main.nodes if node.op == "SOFTMAX") == "softmax"
    plain = _lowered(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(1, 4)).model.main
    assert [node.name for node in plain.nodes] == ["Linear_0", "output"]


def test_a_module_that_says_its_batch_keeps_it() -> None:
    module = OneSample()
    lowered = _lowered(module, torch.randn(1, 6, 12))
    said = "stays fixed at 1: its own code can't compute a batch of 3 (RuntimeError: shape '[1, 6, 24]' is invalid"
    assert said in lowered.notes[0]
    _agrees(lowered, module, torch.randn(1, 6, 12))


def test_an_operator_that_needs_its_sizes_keeps_the_batch_without_another_conversion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converted, real = list[int](), torch_converter.convert
    monkeypatch.setattr(torch_converter, "convert", lambda *args: converted.append(args[1][0].shape[0]) or real(*args))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2, stride=2))
    lowered = _lowered(module, torch.randn(1, 3, 8, 8))
    assert converted == [2]
    assert "needs its output's batch as a constant" in lowered.notes[0]
    _agrees(lowered, module, torch.randn(1, 3, 8, 8))


def test_what_torch_can_not_compute_or_export_is_said_with_its_line() -> None:
    class Branching(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(
        LoweringError, match=r"can't be called on float32\[1, 5\]: RuntimeError: .*Pass samples that it"
    ):
        _lowered(nn.Linear(4, 2), torch.randn(1, 5))
    with pytest.raises(
        LoweringError, match=r"This is line \d+ of '.*test_torch.py': `return x if x.sum\(\) > 0 else -x`"
    ):
        _lowered(Branching(), torch.randn(1, 4))


def test_a_torch_module_is_judged_by_float64() -> None:
    class Centred(nn.Module):
        def forward(self, x: Any) -> Any:
            return (x - x.mean(-1, keepdim=True)) / ((x**2).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1)

    x = 100 + torch.randn(3, 6, 8)
    assert _lowered(Centred(), x).notes == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_module_whose_weights_have_16_bits_is_lowered_in_float32(dtype: Any) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).eval().to(dtype)
    x = torch.randn(2, 3, 8, 8)
    lowered = lower_with_notes(module, samples=[x.to(dtype)])
    assert f"holds {dtype}, and its graph float32" in lowered.notes[0]
    assert next(module.parameters()).dtype == dtype
    expected = module.float()(x).detach().numpy()
    np.testing.assert_allclose(run(lowered.model, x.numpy()), expected, atol=1e-4)


class Called(nn.Module):
    """A function with the modules that it calls."""

    def __init__(self, function: Any, *parts: Any) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *arguments: Any) -> Any:
        return self.function(self.parts, *arguments)


def transposed(*args: Any, rank: int = 2, **options: Any) -> Any:
    return Called(lambda parts, x: parts[0](x), getattr(nn, f"ConvTranspose{rank}d")(*args, **options))


IMAGES, ROWS, IDS = (2, 4, 5, 7), (3, 4, 6), (3, 5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (transposed(4, 3, 3, stride=2, padding=1, output_padding=1), IMAGES),
        (transposed(4, 3, 3, stride=2, padding=1, bias=False), IMAGES),
        (transposed(4, 4, (3, 5), stride=(2, 3), padding=(0, 2), output_padding=(1, 2), groups=2), IMAGES),
        (transposed(4, 3, 3, stride=3, padding=2, output_padding=2, dilation=2), IMAGES),
        (transposed(4, 3, 3, stride=2, padding=1, output_padding=1, rank=1), ROWS),
        (transposed(4, 3, 4, stride=2, padding=1), IMAGES),
        (Called(lambda _, x: torch.sort(x, dim=1, descending=True)), ROWS),
        (Called(lambda _, x: (torch.argsort(x), torch.topk(x, 2, dim=1, largest=False))), ROWS),
        (Called(lambda _, x: (x.median(dim=1), x.median(-1, keepdim=True))), ROWS),
        (Called(lambda parts, i: parts[0](i), nn.EmbeddingBag(9, 4)), IDS),
        (Called(lambda parts, i: parts[0](i), nn.EmbeddingBag(9, 4, mode="max", padding_idx=0)), IDS),
        (Called(lambda parts, i: parts[0](i), nn.EmbeddingBag(9, 4, mode="mean", padding_idx=-9)), IDS),
        (Called(lambda parts, i: parts[0](i, per_sample_weights=i / 9), nn.EmbeddingBag(9, 4, mode="sum")), IDS),
        (Called(lambda _, x: torch.cdist(x, 2 * x)), ROWS),
    ],
)
def test_what_the_converter_has_no_word_for(module: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 9, shape) if shape == IDS else torch.randn(shape)
    if shape == IDS:
        x[0, :4] = 0  # a row of almost nothing but padding
    module.eval()
    lowered = lower_with_notes(module, samples=[x])
    got = run(lowered.model, x[:1].numpy())
    got = list(got.values()) if isinstance(got, dict) else [got]
    for expected, value in zip(torch.utils._pytree.tree_leaves(module(x[:1])), got, strict=True):
        np.testing.assert_allclose(value, expected.detach().numpy(), atol=1e-5)


def test_functions_of_torch_are_as_before() -> None:
    original = nn.functional.embedding_bag
    lower_with_notes(nn.EmbeddingBag(9, 4), samples=[torch.randint(0, 9, IDS)])
    assert nn.functional.embedding_bag is original
    with pytest.raises(LoweringError, match="EmbeddingBag with offsets"):
        lower_with_notes(nn.EmbeddingBag(9, 4), samples=[(torch.randint(0, 9, (5,)), torch.tensor([0, 2]))])
    assert nn.functional.embedding_bag is original


def test_constants_stay_in_front_of_what_was_transposed() -> None:
    module, x = ConstantsFirst().eval(), np.random.default_rng(0).uniform(2, 3, (3, 2, 6, 5)).astype("float32")
    lowered = lower_with_notes(module, samples=[x])
    assert not lowered.notes
    assert ops(lowered.model).count("TRANSPOSE") < 16
    with torch.no_grad():
        expected = module(torch.from_numpy(x))
    for value, found in zip(expected, run(lowered.model, x).values(), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (6, 1, 3, 8, 8), (2, 3, 3, 8, 8)])
def test_an_array_of_examples_or_of_batches_is_calibrated_on(shape: tuple[int, ...]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    quantized = fw.quantize(module, "int8", calibration=x, progress=False)
    assert quantized.model.main.tensors[quantized.model.main.inputs[0]].shape_signature == (-1, 3, 8, 8)
    assert [output.examples for output in quantized.report.outputs] == [6]


@pytest.mark.parametrize("of", [np.asarray, torch.from_numpy, list, iter], ids=["array", "tensor", "list", "iterator"])
def test_loading_takes_an_array_of_examples_with_one_channel(of: Any) -> None:
    examples = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    given = of(examples) if of in (np.asarray, torch.from_numpy) else of([row[None] for row in examples])
    model = fw.load(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval(), samples=given)
    assert model.main.tensors[model.main.inputs[0]].shape[1:] == (1, 8, 8)


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 4, mode="sum")

    def forward(self, ids: Any, offsets: Any) -> Any:
        return self.bag(ids, offsets)


@pytest.mark.parametrize(
    ("module", "sample", "message"),
    [
        (
            nn.ConvTranspose3d(2, 3, 2),
            np.ones((1, 2, 3, 3, 3), np.float32),
            "ConvTranspose3d has no .* Keras's",
        ),
        (Bags(), (np.arange(8), np.array([0, 3])), r"EmbeddingBag with offsets .* Pass rows of ids \(n, length\)"),
    ],
)
def test_what_has_no_operator_says_the_way_out(module: Any, sample: Any, message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        lower_with_notes(module, samples=[sample])


class Grids(nn.Module):
    """A head of YOLO's: boxes of three anchors in each cell, whose sizes are squares of five axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.anchors = nn.Conv2d(3, 3 * 7, 1), nn.Parameter(torch.rand(1, 3, 1, 1, 2))

    def forward(self, x: Any) -> Any:
        x = self.conv(x)
        y = x.view(x.shape[0], 3, 7, *x.shape[2:]).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        xy, wh, scores = y.split((2, 2, 3), 4)
        parts = xy * 2 - 0.5, (wh * 2) ** 2 * self.anchors, scores**1.5, wh.square() + 2**wh
        return torch.cat(parts, 4).view(x.shape[0], -1, 9)


def test_powers_of_five_axes() -> None:
    module, x = Grids().eval(), torch.rand(2, 3, 4, 4)
    lowered = fw.load(module, samples=[x[:1].numpy()])
    wanted = module(x).detach().numpy()
    np.testing.assert_allclose(run(lowered, x.numpy()), wanted, rtol=1e-5, atol=1e-6)
    powers = [node for node in lowered.main.nodes if node.op == "POW"]
    assert len(powers) == 2  # squares are products

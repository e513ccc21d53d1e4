"""The architectures of torchvision and timm: random weights, small images."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.architectures import inputs
from benchmarks.architectures.modules import built, seeded
from benchmarks.architectures.record import SAMPLES, Architecture, Built

_NORM_IMAGES = 32


def _torchvision(name: str, size: int, **options: Any) -> Built:
    seeded()
    import torchvision

    if name == "vit":
        return _with_images(torchvision.models.VisionTransformer(**options), size)
    module = torchvision.models.get_model(name, weights=None, **options)
    return _with_images(module, size)


def _timm(name: str, size: int, **options: Any) -> Built:
    seeded()
    import timm

    return _with_images(timm.create_model(name, pretrained=False, **options), size)


def _with_images(module: Any, size: int) -> Built:
    samples = [image[None] for image in inputs.images(SAMPLES, size)]
    return built(module, samples, inputs.images(_NORM_IMAGES, size, seed=1))


# name: (side of the image in pixels, options of the constructor); small nets first.
_FROM_TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "squeezenet1_1": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "mnasnet0_5": (64, {}),
    "regnet_y_400mf": (64, {}),
    "efficientnet_b0": (64, {}),
    "googlenet": (64, {"aux_logits": False, "init_weights": False}),
    "alexnet": (64, {"num_classes": 10}),
    "vgg11_bn": (64, {"num_classes": 10}),
    "densenet121": (64, {}),
    "vit": (
        64,
        {"image_size": 64, "patch_size": 16, "num_layers": 2, "hidden_dim": 192, "num_heads": 3, "mlp_dim": 768},
    ),
    "resnet50": (64, {}),
    "resnext50_32x4d": (64, {}),
    "inception_v3": (96, {"aux_logits": False, "init_weights": False}),
    "convnext_tiny": (64, {}),
    "swin_t": (64, {}),
}

_FROM_TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "lcnet_050": (64, {}),
    "resnet10t": (64, {}),
    "tinynet_e": (64, {}),
    "ghostnet_100": (64, {}),
    "semnasnet_075": (64, {}),
    "spnasnet_100": (64, {}),
    "hardcorenas_a": (64, {}),
    "tf_efficientnet_lite0": (64, {}),
    "rexnet_100": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "convnextv2_atto": (64, {}),
    "edgenext_xx_small": (64, {}),
    "efficientformer_l1": (224, {}),
    "efficientformerv2_s0": (224, {}),
    "efficientvit_b0": (64, {}),
    "fastvit_t8": (64, {}),
    "levit_128s": (224, {}),
    "deit_tiny_patch16_224": (64, {"img_size": 64}),
    "cait_xxs24_224": (64, {"img_size": 64}),
    "xcit_nano_12_p16_224": (64, {"img_size": 64}),
    "pvt_v2_b0": (64, {}),
    "poolformer_s12": (64, {}),
    "crossvit_9_240": (240, {}),
    "visformer_tiny": (64, {"img_size": 64}),
    "gmlp_ti16_224": (64, {"img_size": 64}),
    "mixer_s16_224": (64, {"img_size": 64}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "coat_lite_tiny": (64, {"img_size": 64}),
    "coat_tiny": (64, {"img_size": 64}),
    "coatnet_nano_rw_224": (64, {"img_size": 64}),
    "twins_svt_small": (64, {"img_size": 64}),
    "repvgg_a0": (64, {}),
    "mobileone_s0": (64, {}),
    "repvit_m0_9": (64, {}),
    "selecsls42b": (64, {}),
    "ecaresnet26t": (64, {}),
    "skresnet18": (64, {}),
    "dla34": (64, {}),
    "ese_vovnet19b_dw": (64, {}),
    "hrnet_w18_small": (64, {}),
    "res2net50_14w_8s": (64, {}),
    "dpn48b": (64, {}),
    "nf_resnet26": (64, {}),
    "eca_nfnet_l0": (64, {}),
    "xception41": (64, {}),
    "cspresnet50": (64, {}),
    "maxvit_pico_rw_256": (64, {"img_size": 64}),
    "maxxvit_rmlp_nano_rw_256": (64, {"img_size": 64}),
    "sequencer2d_s": (64, {"img_size": 64}),
}

ROSTER = {
    **{
        f"torchvision/{name}": Architecture("torchvision", partial(_torchvision, name, size, **options), "torchvision")
        for name, (size, options) in _FROM_TORCHVISION.items()
    },
    **{
        f"timm/{name}": Architecture("timm", partial(_timm, name, size, **options), "timm")
        for name, (size, options) in _FROM_TIMM.items()
    },
}

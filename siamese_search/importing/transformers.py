"""Vision transformers that the library transformers has saved, as timm builds them.

Both libraries compute the same from the same weights, under other names. What one of the networks
gives here is what its head would get: the class token after the last norm, or SigLIP's attention
pooling; later layers (a pooler, a classifier, CLIP's projection) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamese_search.errors import EncoderError

HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


@dataclass(frozen=True)
class _Kind:
    """What timm calls a kind of network, and how pictures are scaled where no file says it."""

    backbone: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


KINDS = {
    "vit": _Kind("vit_base_patch16_224", HALF, HALF),
    "dinov2": _Kind("vit_small_patch14_dinov2", *IMAGENET),
    "dinov2_with_registers": _Kind("vit_small_patch14_reg4_dinov2", *IMAGENET),
    "siglip_vision_model": _Kind("vit_base_patch16_siglip_224", HALF, HALF),
    "clip_vision_model": _Kind("vit_base_patch16_clip_224", *CLIP),
}
PREFIX = re.compile(r"^(vit|dinov2|dinov2_with_registers|vision_model)\.")
LEFT_OUT = re.compile(
    r"^(pooler\.|classifier\.|visual_projection\.|text_|logit_|embeddings\.mask_token$)"
    r"|position_ids$"
)
# Parts of names in transformers, and in timm; the first that fits.
NAMES = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^(layernorm|post_layernorm)\.", "norm."),
        (r"^head\.probe$", "attn_pool.latent"),
        (r"^head\.attention\.in_proj_", "attn_pool.in_proj."),
        (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
    )
]
LAYER = re.compile(r"^encoder\.layers?\.(\d+)\.(.*)$")
WITHIN = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^(attention\.attention|self_attn)\.(query|q_proj)\.", "attn.q."),
        (r"^(attention\.attention|self_attn)\.(key|k_proj)\.", "attn.k."),
        (r"^(attention\.attention|self_attn)\.(value|v_proj)\.", "attn.v."),
        (r"^(attention\.output\.dense|self_attn\.out_proj)\.", "attn.proj."),
        (r"^(layernorm_before|layer_norm1|norm1)\.", "norm1."),
        (r"^(layernorm_after|layer_norm2|norm2)\.", "norm2."),
        (r"^(intermediate\.dense|mlp\.fc1)\.", "mlp.fc1."),
        (r"^(output\.dense|mlp\.fc2)\.", "mlp.fc2."),
        (r"^layer_scale1\.lambda1$", "ls1.gamma"),
        (r"^layer_scale2\.lambda1$", "ls2.gamma"),
    )
]


@dataclass(frozen=True)
class Described:
    """What timm builds, and with what; ``settled`` says as its ``pretrained_cfg`` does."""

    backbone: str
    arguments: dict[str, Any]
    settled: dict[str, Any]
    place: Path

    def converted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by timm's names. Raises EncoderError for one that has no place there."""
        found: dict[str, Tensor] = {}
        # Of a network for pictures and texts, the part for pictures.
        both = any(name.startswith("vision_model.") for name in tensors)
        for name, values in tensors.items():
            bare = PREFIX.sub("", name)
            if LEFT_OUT.search(bare) or (both and bare == name):
                continue
            found[self._named(bare)] = values
        made = _joined(found)
        width = self.arguments["embed_dim"]
        for name in ("cls_token", "pos_embed"):
            if name in made:
                made[name] = made[name].reshape(1, -1, width)
        if "reg_token" in made:  # timm adds the class token's place to it beforehand
            made["cls_token"] = made["cls_token"] + made["pos_embed"][:, :1]
            made["pos_embed"] = made["pos_embed"][:, 1:]
        return made

    def _named(self, name: str) -> str:
        layer = LAYER.match(name)
        table, rest = (WITHIN, layer[2]) if layer else (NAMES, name)
        for pattern, ours in table:
            if pattern.search(rest):
                return (f"blocks.{layer[1]}." if layer else "") + pattern.sub(ours, rest)
        raise EncoderError(
            f"{self.place} describes a network whose tensor {name!r} timm has no place for: export"
            " it to ONNX"
        )


def described(config: Mapping[str, Any], place: Path) -> Described:
    """The network that a ``config.json`` of transformers describes, which lies at ``place``.

    Raises EncoderError for kinds that are not taken, and for fields that make no sense.
    """
    kind = str(config["model_type"])
    if isinstance(config.get("vision_config"), Mapping):
        config = {**config["vision_config"]}
        kind = f"{kind}_vision_model"
    known = KINDS.get(kind)
    if known is None or config.get("use_swiglu_ffn"):
        what = "SwiGLU layers" if known else f"the kind {kind!r}"
        raise EncoderError(
            f"{place} describes a network of {what}, which siasearch does not take: name it as timm"
            f" knows it, with --checkpoint-folder {place.parent}, or export it to ONNX"
        )
    width, depth, heads, side, patch = (
        _whole(config, name, default, place)
        for name, default in (
            ("hidden_size", 768),
            ("num_hidden_layers", 12),
            ("num_attention_heads", 12),
            ("image_size", 224),
            ("patch_size", 14 if kind.startswith("dinov2") else 16),
        )
    )
    ratio = config.get("mlp_ratio", 4)
    if not kind.startswith("dinov2"):
        ratio = _whole(config, "intermediate_size", 4 * width, place) / width
    default = {"clip_vision_model": "quick_gelu", "siglip_vision_model": "gelu_pytorch_tanh"}
    activation = config.get("hidden_act", default.get(kind, "gelu"))
    if activation not in ACTIVATIONS or not isinstance(ratio, (int, float)):
        raise EncoderError(
            f"{place} describes a network ({kind}, {activation}) that siasearch does not take:"
            " export it to ONNX"
        )
    arguments = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "patch_size": patch,
        "mlp_ratio": ratio,
        "act_layer": ACTIVATIONS[activation],
    }
    if kind == "dinov2_with_registers":
        arguments["reg_tokens"] = _whole(config, "num_register_tokens", 4, place)
    settled = {
        "input_size": [3, side, side],
        "fixed_input_size": True,
        "mean": known.mean,
        "std": known.std,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return Described(known.backbone, arguments, settled, place)


def _whole(config: Mapping[str, Any], name: str, default: int, place: Path) -> int:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 16:
        raise EncoderError(f"{place} says {name} {value!r}, which makes no sense")
    return value


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the projections of attention in one tensor, or as its pooling has them."""
    made: dict[str, Tensor] = {}
    for name, values in tensors.items():
        if name.startswith("attn_pool.in_proj."):
            part = name.rpartition(".")[2]
            width = len(values) // 3
            made[f"attn_pool.q.{part}"] = values[:width]
            made[f"attn_pool.kv.{part}"] = values[width:]
        elif ".attn.q." in name:
            parts = [name.replace(".attn.q.", f".attn.{each}.") for each in "qkv"]
            missing = [part for part in parts if part not in tensors]
            if not missing:
                joined = torch.cat([tensors[part] for part in parts])
                made[name.replace(".attn.q.", ".attn.qkv.")] = joined
        elif ".attn.k." not in name and ".attn.v." not in name:
            made[name] = values
    return made

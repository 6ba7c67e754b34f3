# SPDX-License-Identifier: Apache-2.0
"""From a config.json to the sizes of its model, for every family, without torch or transformers.

How images are prepared stands in another file of a checkpoint; here it is as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.config_defaults import (
    CLIP_LARGE_336,
    ENLARGED,
    MOST_TILES,
    NEXT_CANVASES,
    ONEVISION_CANVASES,
    QWEN2_5_PIXELS,
    QWEN3_PIXELS,
    SIGLIP_384,
    TEXT,
    VISION,
)
from svd_vlm_ros.planning.shapes import Connector, Decoder, ModelSizes, Tower
from svd_vlm_ros.planning.views import (
    AnyResolution,
    Dynamic,
    EnlargedTiles,
    FittedTiles,
    Fixed,
    Views,
)

Config = Mapping[str, Any]

Parts = tuple[Tower, Connector, Views]
_TIED = "tie_word_embeddings"


def sizes_from_config(name: str, config: Config) -> ModelSizes:
    """The sizes of a model.

    Args:
        name: for sentences.
        config: its config.json, or `to_dict()` of a configuration of transformers.

    Raises:
        UserError: the family is not known, or the configuration is not one of it.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(
            f"The configuration of {name} is not that of a model that can be planned: its "
            f"model_type is '{model_type}', and those known are {', '.join(FAMILIES)}."
        )
    read, text_type = FAMILIES[model_type]
    try:
        decoder = _decoder(config, text_type)
        tower, connector, views = read(config, decoder.hidden)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"The configuration of {name} is not that of a '{model_type}' ({error!r})."
        ) from error
    return ModelSizes(name, tower, connector, decoder, views)


def _decoder(config: Config, text_type: str) -> Decoder:
    # Older files of Qwen2.5-VL have what belongs to the language model at the top.
    given = config.get("text_config") or (config if "hidden_size" in config else {})
    kind = str(given.get("model_type", text_type)) if given is not config else text_type
    if kind not in TEXT:
        raise UserError(
            f"The language model '{kind}' can't be planned: those known are {', '.join(TEXT)}."
        )
    text = {**TEXT[kind], **given}
    hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
    # A file that says nothing comes with a head of its own, as InternVL's do; but for Gemma's.
    said = [level[_TIED] for level in (config, given) if _TIED in level]
    tied = any(said) if said else text.get(_TIED)
    return Decoder(
        hidden=hidden,
        intermediate=int(text["intermediate_size"]),
        layers=int(text["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_size=int(text.get("head_dim") or hidden // heads),
        vocabulary=int(text["vocab_size"]),
        tied=bool(tied),
    )


def _vision(config: Config, kind: str, whole: Config | None = None) -> dict[str, Any]:
    """The tower's configuration; `whole` if the file has none of a family with several towers."""
    given = config.get("vision_config") or whole or {}
    if whole and given.get("model_type", kind) != kind:
        raise UserError(
            f"The vision tower '{given['model_type']}' can't be planned in a "
            f"'{config['model_type']}': the one known is {kind}."
        )
    return {**VISION[kind], **given}


def _side(value: Any) -> int:
    """One side of a square that is given as a number, or as height and width."""
    return int(value[0] if isinstance(value, list | tuple) else value)


def _layer(hidden: int, intermediate: int) -> int:
    """Weights of a layer with biases, two norms and an MLP of two matrices."""
    mlp = 2 * hidden * intermediate + intermediate + hidden
    return 4 * hidden * (hidden + 1) + 4 * hidden + mlp


def _pixels(vision: Config) -> int:
    """Numbers that a patch is made of."""
    frames = int(vision.get("temporal_patch_size", 1))
    return int(vision.get("num_channels", 3)) * frames * _side(vision["patch_size"]) ** 2


def _vit(vision: Config, outside: int, used: int | None = None, **more: Any) -> Tower:
    """A tower of such layers; `outside` are the weights beside them and the patches' matrix."""
    hidden, intermediate = int(vision["hidden_size"]), int(vision["intermediate_size"])
    layers = int(vision["num_hidden_layers"])
    weights = layers * _layer(hidden, intermediate) + _pixels(vision) * hidden + outside
    used = layers if used is None else used
    return Tower(hidden, intermediate, layers, used, _pixels(vision), weights, **more)


def _chosen_layers(config: Config, vision: Config, default: int) -> int:
    """Layers up to the hidden states that are looked at; state 0 is the embedding."""
    chosen = int(config.get("vision_feature_layer", default))
    return chosen if chosen >= 0 else int(vision["num_hidden_layers"]) + 1 + chosen


def _patches(vision: Config) -> int:
    """Patches along a side of a tile."""
    return _side(vision["image_size"]) // _side(vision["patch_size"])


def _clip(config: Config) -> tuple[dict[str, Any], Tower]:
    vision = _vision(config, "clip_vision_model", CLIP_LARGE_336)
    hidden = int(vision["hidden_size"])
    outside = (1 + _patches(vision) ** 2 + 1 + 4) * hidden  # CLS, positions, two norms
    used = _chosen_layers(config, vision, -2)
    return vision, _vit(vision, outside, used, has_cls=True)


def _mlp_projector(config: Config, inside: int, outside: int, newline: bool) -> Connector:
    macs = (inside + outside) * outside
    biases = 2 * outside if config.get("multimodal_projector_bias", True) else 0
    return Connector(macs + biases + (outside if newline else 0), macs)


def _llava(config: Config, text: int) -> Parts:
    vision, tower = _clip(config)
    return tower, _mlp_projector(config, tower.hidden, text, False), Fixed(_patches(vision) ** 2)


def _llava_next(config: Config, text: int) -> Parts:
    vision, tower = _clip(config)
    canvases = _canvases(config, NEXT_CANVASES)
    views = AnyResolution(canvases, _side(vision["image_size"]), _patches(vision))
    return tower, _mlp_projector(config, tower.hidden, text, True), views


def _siglip(vision: Config, used: int | None = None) -> Tower:
    hidden = int(vision["hidden_size"])
    outside = (1 + _patches(vision) ** 2 + 2) * hidden
    if vision["vision_use_head"]:  # a layer of attention by one probe
        outside += _layer(hidden, int(vision["intermediate_size"])) - hidden
    return _vit(vision, outside, used)


def _llava_onevision(config: Config, text: int) -> Parts:
    vision = _vision(config, "siglip_vision_model", SIGLIP_384)
    tower, side = _siglip(vision, _chosen_layers(config, vision, -1)), _patches(vision)
    most = int(config.get("vision_aspect_ratio", "anyres_max_9").rpartition("_")[2])
    canvases = _canvases(config, ONEVISION_CANVASES)
    views = AnyResolution(canvases, _side(vision["image_size"]), side, most)
    return tower, _mlp_projector(config, tower.hidden, text, True), views


def _gemma3(config: Config, text: int) -> Parts:
    vision = _vision(config, "siglip_vision_model")
    tower, tokens = _siglip(vision), int(config.get("mm_tokens_per_image", 256))
    macs = tower.hidden * text
    views = Fixed(_patches(vision) ** 2, tokens)
    return tower, Connector(macs + tower.hidden, macs), views  # a matrix and a norm


def _canvases(config: Config, default: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    given = config.get("image_grid_pinpoints") or default
    return tuple((int(height), int(width)) for height, width in given)


def _smolvlm(config: Config, text: int) -> Parts:
    vision = _vision(config, "smolvlm_vision")
    side, tile = _patches(vision), _side(vision["image_size"])
    tower = _vit(vision, (1 + side**2 + 2) * int(vision["hidden_size"]))
    merge = int(config.get("scale_factor", 2))
    macs = tower.hidden * merge**2 * text
    return tower, Connector(macs, macs), EnlargedTiles(tile, ENLARGED, side, merge)


def _internvl(config: Config, text: int) -> Parts:
    vision = _vision(config, "internvl_vision")
    hidden, side = int(vision["hidden_size"]), _patches(vision)
    outside = 2 * hidden  # CLS and the bias of the patches' embedding
    if vision.get("use_absolute_position_embeddings", True):
        outside += (side**2 + 1) * hidden
    outside += 0 if vision.get("use_mean_pooling", True) else 2 * hidden
    more = 2 * hidden  # in a layer: what its two halves are scaled by
    more -= 0 if vision.get("attention_bias") else 3 * hidden
    more -= 2 * hidden if vision.get("norm_type") == "rms_norm" else 0
    more += 2 * hidden if vision.get("use_qk_norm") else 0
    tower = _vit(vision, outside + int(vision["num_hidden_layers"]) * more, has_cls=True)
    merge = round(1 / float(config.get("downsample_ratio", 0.5)))
    inside = hidden * merge**2
    macs = (inside + text) * text
    views = FittedTiles(_side(vision["image_size"]), side, merge, MOST_TILES)
    return tower, Connector(macs + 2 * inside + 2 * text, macs), views


def _qwen3_vl(config: Config, text: int) -> Parts:
    vision = _vision(config, "qwen3_vl_vision")
    hidden, merge = int(vision["hidden_size"]), int(vision["spatial_merge_size"])
    inside, out = hidden * merge**2, int(vision["out_hidden_size"])
    macs, deep = (inside + out) * inside, len(vision["deepstack_visual_indexes"])
    mergers = (1 + deep) * (macs + inside + out) + 2 * hidden + deep * 2 * inside
    outside = (1 + int(vision["num_position_embeddings"])) * hidden
    layers = {**vision, "num_hidden_layers": vision["depth"]}
    tower = _vit(layers, outside, token_macs=deep * macs)
    views = Dynamic(_side(vision["patch_size"]), merge, *QWEN3_PIXELS)
    return tower, Connector(mergers, macs), views


def _qwen2_5_vl(config: Config, text: int) -> Parts:
    vision = _vision(config, "qwen2_5_vl_vision")
    hidden, intermediate = int(vision["hidden_size"]), int(vision["intermediate_size"])
    depth, merge = int(vision["depth"]), int(vision["spatial_merge_size"])
    inside, out = hidden * merge**2, int(vision["out_hidden_size"])
    patch, pixels = _side(vision["patch_size"]), _pixels(vision)
    layer = 4 * hidden * (hidden + 1) + 2 * hidden
    layer += 3 * hidden * intermediate + 2 * intermediate + hidden
    tower = Tower(
        *(hidden, intermediate, depth, depth, pixels, depth * layer + pixels * hidden),
        matrices=3,
        window=(int(vision["window_size"]) // patch) ** 2,
        full_layers=len(vision["fullatt_block_indexes"]),
    )
    macs = (inside + out) * inside
    connector = Connector(macs + inside + out + hidden, macs)
    return tower, connector, Dynamic(patch, merge, *QWEN2_5_PIXELS)


FAMILIES: dict[str, tuple[Callable[[Config, int], Parts], str]] = {
    "llava": (_llava, "llama"),
    "llava_next": (_llava_next, "llama"),
    "llava_onevision": (_llava_onevision, "qwen2"),
    "qwen2_5_vl": (_qwen2_5_vl, "qwen2_5_vl_text"),
    "qwen3_vl": (_qwen3_vl, "qwen3_vl_text"),
    "smolvlm": (_smolvlm, "llama"),
    "idefics3": (_smolvlm, "llama"),
    "internvl": (_internvl, "qwen2"),
    "gemma3": (_gemma3, "gemma3_text"),
}

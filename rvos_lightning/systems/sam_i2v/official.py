"""SAM-I2V's checkpoint layout and ours, both ways."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.parts.segmenters.sam_keys import TINY_VIT_DROP, tiny_vit_rules
from rvos_lightning.parts.weights import KeyMap, Rule, convert, load_official, report, save

_SEGMENTER = [
    Rule(rule.pattern, rule.names if not isinstance(rule.names, str) else f"segmenter.{rule.names}")
    for rule in tiny_vit_rules("image_encoder.trunk_image.")
]
_VIDEO = r"image_encoder\.trunk_video\."

KEY_MAP = KeyMap(
    rules=[
        *_SEGMENTER,
        Rule(r"sam_prompt_encoder\.(.*)", r"segmenter.prompt_encoder.\1"),
        Rule(r"sam_mask_decoder\.(.*)", r"segmenter.mask_decoder.\1"),
        Rule(_VIDEO + r"temporal_stem\.(.*)", r"adapter.stem.\1"),
        Rule(_VIDEO + r"input_linears\.(.*)", r"adapter.taps.\1"),
        Rule(_VIDEO + r"temporal_nets\.(\d)\.lns\.(.*)", r"adapter.temporal.\1.norms.\2"),
        Rule(_VIDEO + r"temporal_nets\.(\d)\.temporal_net\.(\d)\.c_fc1_\d\.(.*)", r"adapter.temporal.\1.spatial.\2.\3"),
        Rule(
            _VIDEO + r"temporal_nets\.(\d)\.temporal_net\.(\d)\.c_fc2_\d\.(.*)", r"adapter.temporal.\1.temporal.\2.\3"
        ),
        Rule(_VIDEO + r"integration2temporal_nets\.(\d)\.fuse\.(.*)", r"adapter.to_temporal.\1.\2"),
        Rule(_VIDEO + r"temporal2integration_nets\.(\d)\.fuse\.(.*)", r"adapter.to_image.\1.\2"),
        Rule(_VIDEO + r"integration_nets\.(\d)\.layer\.(.*)", r"adapter.integrate.\1.\2"),
        Rule(
            r"((?:memory_attention|memory_encoder|memory_prompt_generator|mask_downsample|obj_ptr_proj|"
            r"obj_ptr_tpos_proj)\..*|maskmem_tpos_enc|no_mem_embed|no_obj_ptr|no_obj_embed_spatial)",
            r"memory.\1",
        ),
    ],
    drop=(
        *(r"image_encoder\.trunk_image" + pattern[2:] for pattern in TINY_VIT_DROP),
        _VIDEO + r"integration2temporal_nets\.2\..*",
        r"no_mem_pos_enc",
    ),
)
"""Dropped: the classifier of the trunk, a fusion nothing reads, an embedding never used."""

DROPPED_SHAPES = {
    "no_mem_pos_enc": (1, 1, 256),
    "image_encoder.trunk_image.norm_head.weight": (320,),
    "image_encoder.trunk_image.norm_head.bias": (320,),
    "image_encoder.trunk_image.head.weight": (1000, 320),
    "image_encoder.trunk_image.head.bias": (1000,),
    "image_encoder.trunk_video.integration2temporal_nets.2.fuse.0.weight": (96, 352, 1, 1),
    "image_encoder.trunk_video.integration2temporal_nets.2.fuse.0.bias": (96,),
    "image_encoder.trunk_video.integration2temporal_nets.2.fuse.1.weight": (96,),
    "image_encoder.trunk_video.integration2temporal_nets.2.fuse.1.bias": (96,),
}


def build() -> PromptedSegmenter:
    """The released configuration: TinySAM + SAM-I2V."""
    from rvos_lightning.parts.prompters.user import UserPrompter
    from rvos_lightning.parts.segmenters.sam import Sam
    from rvos_lightning.systems.sam_i2v.prompt_memory import PromptMemory
    from rvos_lightning.systems.sam_i2v.temporal_integrator import TemporalIntegrator

    return PromptedSegmenter(Sam("tiny_sam", occlusion=True), TemporalIntegrator(), UserPrompter(), PromptMemory())


def target() -> dict[str, Tensor]:
    """Keys and shapes of the released configuration in our layout, without memory for numbers."""
    with torch.device("meta"):
        return dict(build().state_dict())


def import_official(source: Path | str, destination: Path | str) -> str:
    """Convert a released or trainer checkpoint to ours; returns a report.

    Raises:
        WeightsError: a key on either side is not accounted for.
    """
    state, goal = load_official(source), target()
    save(convert(state, KEY_MAP, goal), destination, {"system": "sam_i2v", "variant": "tiny_sam"})
    return report(state, KEY_MAP, goal)


def export_official(source: Path | str, destination: Path | str) -> str:
    """Convert ours back; tensors the official code never reads are filled with zeros."""
    state = export_state(load_official(source))
    torch.save({"model": state}, destination)
    return f"wrote {len(state)} keys, {len(DROPPED_SHAPES)} of them unused ones filled with zeros"


def export_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in the official layout, to be loaded strictly by the original code."""
    back = official_names(state)
    exported = {back[key]: tensor for key, tensor in state.items()}
    return exported | {key: torch.zeros(shape) for key, shape in DROPPED_SHAPES.items()}


def official_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Our key -> official key."""
    names = {}
    for key in state:
        names[key] = _official_name(key)
    return names


def _official_name(key: str) -> str:
    """The official name of one of our keys (the rules above, read backwards)."""
    import re

    for pattern, name in _BACK:
        if (match := re.fullmatch(pattern, key)) is not None:
            return match.expand(name) if isinstance(name, str) else name(match)
    raise KeyError(f"{key}: no official name; only the released configuration (tiny_sam) can be exported")


_TRUNK, _OUT = r"segmenter\.encoder\.trunk\.", "image_encoder.trunk_image."
_V = "image_encoder.trunk_video."
_BACK = [
    (r"segmenter\.encoder\.neck\.(.*)", _OUT + r"neck.\1"),
    (
        _TRUNK + r"patch_embed\.conv([12])\.(?:(bn\..*)|conv\.(weight))",
        lambda m: f"{_OUT}patch_embed.seq.{0 if m[1] == '1' else 2}.{m[2] or 'c.' + m[3]}",
    ),
    (
        _TRUNK + r"stages\.(\d)\.downsample\.(conv\d)\.(?:(bn\..*)|conv\.(weight))",
        lambda m: f"{_OUT}layers.{int(m[1]) - 1}.downsample.{m[2]}.{m[3] or 'c.' + m[4]}",
    ),
    (_TRUNK + r"stages\.(.*)\.(local_conv|conv\d)\.conv\.weight", _OUT + r"layers.\1.\2.c.weight"),
    (_TRUNK + r"stages\.(.*)", _OUT + r"layers.\1"),
    (r"segmenter\.prompt_encoder\.(.*)", r"sam_prompt_encoder.\1"),
    (r"segmenter\.mask_decoder\.(.*)", r"sam_mask_decoder.\1"),
    (r"adapter\.stem\.(.*)", _V + r"temporal_stem.\1"),
    (r"adapter\.taps\.(.*)", _V + r"input_linears.\1"),
    (r"adapter\.temporal\.(\d)\.norms\.(.*)", _V + r"temporal_nets.\1.lns.\2"),
    (r"adapter\.temporal\.(\d)\.spatial\.(\d)\.(.*)", _V + r"temporal_nets.\1.temporal_net.\2.c_fc1_\2.\3"),
    (r"adapter\.temporal\.(\d)\.temporal\.(\d)\.(.*)", _V + r"temporal_nets.\1.temporal_net.\2.c_fc2_\2.\3"),
    (r"adapter\.to_temporal\.(\d)\.(.*)", _V + r"integration2temporal_nets.\1.fuse.\2"),
    (r"adapter\.to_image\.(\d)\.(.*)", _V + r"temporal2integration_nets.\1.fuse.\2"),
    (r"adapter\.integrate\.(\d)\.(.*)", _V + r"integration_nets.\1.layer.\2"),
    (r"memory\.(.*)", r"\1"),
]

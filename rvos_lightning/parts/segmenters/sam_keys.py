"""Key maps from every official image-SAM checkpoint to `Sam`."""

from collections.abc import Mapping

from torch import Tensor

from rvos_lightning.parts.segmenters.sam_encoders import REP_VITS, TINY_VITS, VITS
from rvos_lightning.parts.weights import KeyMap, Rule


def _conv_norm(source: str, target: str) -> list[Rule]:
    """Move a prefix; timm's TinyViT calls the convolution of a conv-norm pair `conv`, the originals `c`."""
    return [Rule(rf"{source}(.*)\.c\.weight", rf"{target}\1.conv.weight"), Rule(rf"{source}(.*)", rf"{target}\1")]


def tiny_vit_rules(source: str) -> list[Rule]:
    """TinySAM and MobileSAM (`image_encoder.`) and SAM-I2V (`image_encoder.trunk_image.`)."""
    source = source.replace(".", r"\.")
    rules = [Rule(rf"{source}neck\.(.*)", r"encoder.neck.\1")]
    for old, new in (("0", "conv1"), ("2", "conv2")):
        rules += _conv_norm(rf"{source}patch_embed\.seq\.{old}", f"encoder.trunk.patch_embed.{new}")
    for i in range(3):
        rules += _conv_norm(rf"{source}layers\.{i}\.downsample", f"encoder.trunk.stages.{i + 1}.downsample")
    return rules + _conv_norm(rf"{source}layers\.", "encoder.trunk.stages.")


def _repvit_rules() -> list[Rule]:
    """EdgeSAM's flat list of blocks to timm's stages."""
    rules = [
        Rule(r"image_encoder\.neck\.(.*)", r"encoder.neck.\1"),
        Rule(r"image_encoder\.fuse_stage2\.(.*)", r"encoder.fuse_fine.\1"),
        Rule(r"image_encoder\.fuse_stage3\.op_list\.0\.(.*)", r"encoder.fuse_coarse.\1"),
        Rule(r"image_encoder\.features\.0\.0\.(.*)", r"encoder.trunk.stem.conv1.\1"),
        Rule(r"image_encoder\.features\.0\.2\.(.*)", r"encoder.trunk.stem.conv2.\1"),
    ]
    first = 1
    for stage, depth in enumerate(REP_VITS["edge_sam"].depths):
        if stage > 0:
            rules += _repvit_block(first, f"stages.{stage}.downsample.pre_block")
            rules += _repvit_downsample(first + 1, f"stages.{stage}.downsample")
            first += 2
        for block in range(depth):
            rules += _repvit_block(first + block, f"stages.{stage}.blocks.{block}")
        first += depth
    return rules


def _repvit_block(index: int, name: str) -> list[Rule]:
    source = rf"image_encoder\.features\.{index}\."
    return [
        Rule(source + r"token_mixer\.0\.(conv.*)", rf"encoder.trunk.{name}.token_mixer.\1"),
        Rule(source + r"token_mixer\.1\.(.*)", rf"encoder.trunk.{name}.se.\1"),
        Rule(source + r"channel_mixer\.m\.0\.(.*)", rf"encoder.trunk.{name}.channel_mixer.conv1.\1"),
        Rule(source + r"channel_mixer\.m\.2\.(.*)", rf"encoder.trunk.{name}.channel_mixer.conv2.\1"),
    ]


def _repvit_downsample(index: int, name: str) -> list[Rule]:
    source = rf"image_encoder\.features\.{index}\."
    return [
        Rule(source + r"token_mixer\.0\.(.*)", rf"encoder.trunk.{name}.spatial_downsample.\1"),
        Rule(source + r"token_mixer\.2\.(.*)", rf"encoder.trunk.{name}.channel_downsample.\1"),
        Rule(source + r"channel_mixer\.m\.0\.(.*)", rf"encoder.trunk.{name}.ffn.conv1.\1"),
        Rule(source + r"channel_mixer\.m\.2\.(.*)", rf"encoder.trunk.{name}.ffn.conv2.\1"),
    ]


VIT_RULES = [
    Rule(r"image_encoder\.blocks\.(\d+)\.norm([12])\.(.*)", r"encoder.trunk.layers.\1.layer_norm\2.\3"),
    Rule(r"image_encoder\.blocks\.(.*)", r"encoder.trunk.layers.\1"),
    Rule(r"image_encoder\.patch_embed\.proj\.(.*)", r"encoder.trunk.patch_embed.projection.\1"),
    Rule(r"image_encoder\.neck\.0\.(.*)", r"encoder.trunk.neck.conv1.\1"),
    Rule(r"image_encoder\.neck\.1\.(.*)", r"encoder.trunk.neck.layer_norm1.\1"),
    Rule(r"image_encoder\.neck\.2\.(.*)", r"encoder.trunk.neck.conv2.\1"),
    Rule(r"image_encoder\.neck\.3\.(.*)", r"encoder.trunk.neck.layer_norm2.\1"),
    Rule(r"image_encoder\.pos_embed", "encoder.trunk.pos_embed"),
]
"""The encoder of SAM B, L and H."""

HEAD_RULES = [
    Rule(r"mask_decoder\.(.*)\.mlp\.lin1\.(.*)", r"mask_decoder.\1.mlp.layers.0.\2"),
    Rule(r"mask_decoder\.(.*)\.mlp\.lin2\.(.*)", r"mask_decoder.\1.mlp.layers.1.\2"),
    Rule(r"((?:prompt_encoder|mask_decoder)\..*)", r"\1"),
]
"""Prompt encoder and mask decoder of every image SAM."""

TINY_VIT_DROP = (r".*\.(?:norm_head|head)\..*", r".*\.attention_bias_idxs")
"""The unused classifier."""

OCCLUSION_KEYS = (r"mask_decoder\.obj_score_token\.weight", r"mask_decoder\.pred_obj_score_head\..*")
"""What SAM-I2V's decoder has beyond SAM's; it starts from initialisation."""


_FIRST_LAYERS = {  # of our own state dicts: the first convolution, half as wide as the first stage
    "encoder.trunk.patch_embed.conv1.conv.weight": TINY_VITS,
    "encoder.trunk.stem.conv1.c.weight": REP_VITS,
}


def told_by(state: Mapping[str, Tensor]) -> str:
    """What a checkpoint's keys say that it is, and the flag that goes with it."""
    flag = "--model.network.segmenter.variant"
    if any(key.startswith(("segmenter.", "network.segmenter.")) for key in state):
        return "it holds a whole network: give it to --model.weights"
    if any(key.startswith("image_encoder.trunk_") for key in state):
        return "it is SAM-I2V's: convert it and give it to --model.weights"
    if any(key.startswith("image_encoder.features.") for key in state):
        return f"it is EdgeSAM: {flag} edge_sam"
    if any(key.startswith("image_encoder.patch_embed.seq.") for key in state):
        return f"it is TinySAM or MobileSAM: {flag} tiny_sam or mobile_sam"
    names: list[str] = []
    for key, shapes in _FIRST_LAYERS.items():
        if key in state:
            names = [name for name, shape in shapes.items() if shape.embed_dims[0] == 2 * len(state[key])]
    places = state.get("image_encoder.pos_embed", state.get("encoder.trunk.pos_embed"))
    if places is not None:
        names = [name for name, shape in VITS.items() if shape.hidden == places.shape[-1]]
    found = " or ".join(names)
    return f"its encoder is {found}: {flag} {found}" if found else "it is of no image SAM that is known here"


def key_map(family: str) -> KeyMap:
    """The official layout of an encoder family: tiny_vit, repvit or vit."""
    if family == "tiny_vit":
        return KeyMap([*tiny_vit_rules("image_encoder."), *HEAD_RULES], TINY_VIT_DROP, OCCLUSION_KEYS)
    encoder = _repvit_rules() if family == "repvit" else VIT_RULES
    return KeyMap([*encoder, *HEAD_RULES], (), OCCLUSION_KEYS)

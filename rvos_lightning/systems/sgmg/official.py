"""Released SgMg checkpoints in and out (key names of the ICCV 2023 release)."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rvos_lightning.parts.weights import KeyMap, Rule, WeightsError, convert, load_official, report, save
from rvos_lightning.systems.sgmg.video_swin import LAYOUT, SIZES

BODY, OURS = r"backbone\.0\.body\.", "backbone."
TEXT, OUR_TEXT = "text_encoder.text_backbone.", "language.text.model."
TWICE = "transformer.decoder.bbox_embed."
POSITIONS = TEXT + "embeddings.position_ids"

BLOCK = {"conv1.": "mix_in.", "conv2.": "mix_out.", "laplace.": "local.", "fc.": "gate."}
ENCODER = {
    "self_attn.": "attention.",
    "norm1.": "norm.",
    "linear1.": "feed.linear1.",
    "linear2.": "feed.linear2.",
    "norm2.": "feed.norm.",
}
DECODER = {
    "cross_attn.": "attention.",
    "norm1.": "norm.",
    "self_attn.": "self_attention.",
    "norm2.": "self_norm.",
    "linear1.": "feed.linear1.",
    "linear2.": "feed.linear2.",
    "norm3.": "feed.norm.",
}
NUMBERED = {  # official -> ours; # is a number, and a table names what follows it
    "input_fft.#.": ("fusion.before.#.", BLOCK),
    "input_fft_post.#.": ("fusion.after.#.", BLOCK),
    "transformer.encoder.layers.#.": ("transformer.encoder.#.", ENCODER),
    "transformer.decoder.layers.#.": ("transformer.decoder.#.", DECODER),
    "input_proj.#.": ("fusion.project.#.", {"": ""}),
    "class_embed.#.": ("scores.#.", {"": ""}),
    "bbox_embed.#.": ("transformer.boxes.#.", {"": ""}),
}
PREFIXES = {
    TEXT: OUR_TEXT,
    "text_proj.fc.": "language.words.0.",
    "text_proj.layer_norm.": "language.words.1.",
    "sentence_proj.fc.": "language.sentence.0.",
    "sentence_proj.layer_norm.": "language.sentence.1.",
    "fusion_module.multihead_attn.": "fusion.attention.",
    "transformer.level_embed": "transformer.level_embed",
    "transformer.reference_points.": "transformer.reference.",
    "query_embed.": "transformer.query_embed.",
    "controller.": "kernels.kernels.",
    "mask_refine.conv1_1div8.": "refiner.coarse_in.",
    "mask_refine.conv2_1div8.": "refiner.coarse_out.",
    "mask_refine.conv1_1div4.": "refiner.fine_in.",
    "mask_refine.conv2_1div4.": "refiner.fine_out.",
}
COUNTERS = r".*total_(ops|params)"  # left by a counter of operations
BACK = {  # ours -> the release's Video Swin
    r"backbone\.patch_embed\.(.*)": r"backbone.0.body.patch_embed.\1",
    **{
        pattern.format(i=2 * i, down=2 * i + 1): name.format(i)
        for i in range(4)
        for pattern, name in {
            r"backbone\.features\.{i}\.(\d+)\.mlp\.0\.(.*)": r"backbone.0.body.layers.{}.blocks.\1.mlp.fc1.\2",
            r"backbone\.features\.{i}\.(\d+)\.mlp\.3\.(.*)": r"backbone.0.body.layers.{}.blocks.\1.mlp.fc2.\2",
            r"backbone\.features\.{i}\.(\d+)\.(.*)": r"backbone.0.body.layers.{}.blocks.\1.\2",
            r"backbone\.features\.{down}\.(.*)": r"backbone.0.body.downsamples.{}.\1",
        }.items()
    },
}


def _rules(reverse: bool) -> list[Rule]:
    rules = []
    for theirs, (ours, inner) in NUMBERED.items():
        for name, own in inner.items():
            source, target = (ours + own, theirs + name) if reverse else (theirs + name, ours + own)
            pattern = re.escape(source).replace(r"\#", r"(\d+)")
            rules.append(Rule(pattern + "(.*)", target.replace("#", r"\1") + r"\2"))
    for theirs, ours in PREFIXES.items():
        source, target = (ours, theirs) if reverse else (theirs, ours)
        rules.append(Rule(re.escape(source) + "(.*)", target + r"\1"))
    return rules


KEY_MAP = KeyMap(
    [*(Rule(BODY + pattern, OURS + name) for pattern, name in LAYOUT.items()), *_rules(reverse=False)],
    drop=(re.escape(TWICE) + ".*", re.escape(POSITIONS), COUNTERS),
)
EXPORT_MAP = KeyMap([*(Rule(pattern, name) for pattern, name in BACK.items()), *_rules(reverse=True)])


def import_official(source: Path | str, destination: Path | str) -> str:
    """Write a released checkpoint as ours; returns a report that says which variant it is.

    Raises:
        WeightsError: a key is not accounted for, a shape differs, or the box heads' two copies differ.
    """
    state = load_official(source, allow=[argparse.Namespace])
    variant = describe(state)
    for key in (key for key in state if key.startswith(TWICE)):
        once = "bbox_embed." + key.removeprefix(TWICE)
        if once not in state or not torch.equal(state[key], state[once]):
            raise WeightsError(f"{source}: {key} and {once} should be one tensor stored twice, but differ")
    target = network_for(state).state_dict()
    ours = convert(state, KEY_MAP, target)
    save(ours, destination, {"system": "sgmg", "variant": variant})
    return f"variant   {variant}\n{report(state, KEY_MAP, target)}"


def export_official(source: Path | str, destination: Path | str) -> str:
    """Write our weights in the released layout, every key of it filled.

    Raises:
        WeightsError: a key of ours is not known.
    """
    state = {re.sub("^network\\.", "", key): value for key, value in load_official(source).items()}
    official, unknown = to_official(state)
    if unknown:
        raise WeightsError(f"{source}: {len(unknown)} keys are not SgMg's, first {unknown[0]}")
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": official}, destination)
    return f"variant   {describe(official)}\nwritten   {len(official)} keys"


def to_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our keys in the released layout, box heads twice, and the keys no rule knows."""
    renamed = EXPORT_MAP.rename(state)
    official = renamed.state
    twice = {TWICE + k.removeprefix("bbox_embed."): v for k, v in official.items() if k.startswith("bbox_embed.")}
    words = official.get(TEXT + "embeddings.position_embeddings.weight")
    places = {} if words is None else {POSITIONS: torch.arange(len(words))[None]}
    return {**official, **twice, **places}, renamed.unknown


def describe(state: Mapping[str, Tensor]) -> str:
    """Which variant a released state dict is.

    Raises:
        WeightsError: it is no SgMg checkpoint.
    """
    return f"Video-Swin-{backbone_variant(state).upper()}, RoBERTa of {_depth(state)} layers"


def backbone_variant(state: Mapping[str, Tensor]) -> str:
    """t, s or b, from width and depth.

    Raises:
        WeightsError: it is none of them, or no SgMg checkpoint.
    """
    kernel, fusion = "backbone.0.body.patch_embed.proj.weight", "input_fft.0.conv1.weight"
    absent = [key for key in (kernel, fusion, TEXT + "embeddings.word_embeddings.weight") if key not in state]
    if absent:
        raise WeightsError(f"no SgMg checkpoint: {absent[0]} is missing")
    width = len(state[kernel])
    pattern = re.compile(BODY + r"layers\.2\.blocks\.(\d+)\.norm1\.weight")
    depth = sum(pattern.fullmatch(key) is not None for key in state)
    for name, size in SIZES.items():
        if (size.width, size.depths[2]) == (width, depth):
            return name
    raise WeightsError(f"Video Swin of width {width} with {depth} blocks in stage 3; the variants are T, S and B")


def network_for(state: Mapping[str, Tensor]) -> nn.Module:
    """The network that a released state dict belongs to, without memory for its weights."""
    from rvos_lightning.parts.text.roberta import Roberta, TextSize
    from rvos_lightning.parts.text.tokenizers import WordTokenizer
    from rvos_lightning.systems.sgmg.network import SgMg
    from rvos_lightning.systems.sgmg.video_swin import VideoSwin

    vocabulary, width = state[TEXT + "embeddings.word_embeddings.weight"].shape
    size = TextSize(
        vocabulary=vocabulary,
        width=width,
        layers=_depth(state),
        heads=1,  # leaves no trace in shapes
        mlp=len(state[TEXT + "encoder.layer.0.intermediate.dense.weight"]),
        positions=len(state[TEXT + "embeddings.position_embeddings.weight"]) - 2,
    )
    with torch.device("meta"):
        text = Roberta(size=size, tokenizer=WordTokenizer((), buckets=1), pooler=True)
        network = SgMg(VideoSwin(backbone_variant(state)), text, queries=len(state["query_embed.weight"]))
    return network


def _depth(state: Mapping[str, Tensor]) -> int:
    return sum(key.startswith(TEXT) and key.endswith(".intermediate.dense.weight") for key in state)

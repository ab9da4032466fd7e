"""Checkpoints of the released model (the keys of hitachi-rd-cv/dfam) in and out.

python -m rvos_lightning convert clip_sam official.pth ours.safetensors
python -m rvos_lightning convert clip_sam ours.safetensors official.pth --export
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rvos_lightning.parts.segmenters.sam_keys import HEAD_RULES, VIT_RULES
from rvos_lightning.parts.weights import KeyMap, Rule, WeightsError, convert, load_official, report, save

STREAMS = {"": "carried", "2": "side"}
PREFIXES = {  # official -> ours; the first that fits wins
    "text_encoder.": "text.model.",
    "clip_dense.clip_model.": "tower.model.",
    "lang_mlp.": "word_projection.",
    "clip_mlpl.": "category_projection.",
    "text_embeddings": "category_table",
    "txt2txt.ca.multihead_attn.": "bridge.sparse.read.attention.",
    "txt2txt.ca.norm.": "bridge.sparse.read.norm.",
    "txt2txt.fcs.": "bridge.sparse.forward_layer.",
    "clip_pixel_decoder.input_proj.": "bridge.pixel_decoder.project.",
    "clip_pixel_decoder.transformer.level_embed": "bridge.pixel_decoder.level",
    "clip_pixel_decoder.mask_features.": "bridge.pixel_decoder.out.",
    "decoder.query_feat.weight": "bridge.queries.content",
    "decoder.query_embed.weight": "bridge.queries.place",
    "decoder.level_embed.weight": "bridge.queries.level",
    "decoder.decoder_norm1.": "bridge.queries.mask_norm.",
    "decoder.decoder_norm2.": "bridge.queries.name_norm.",
    "decoder.mask_embed.": "bridge.queries.mask_head.",
    "decoder.v_embed.": "bridge.queries.name_head.",
    "decoder.to_logits.": "bridge.queries.to_clip.",
    "decoder.to_logits_bert.": "bridge.queries.to_sentence.",
    "decoder.nt_embed.": "bridge.queries.no_target.",
}
SCALARS = {  # released as numbers without axes, which sharded strategies do not take
    "decoder.logit_scale_condsim": "bridge.queries.clip_scale",
    "decoder.logit_scale": "bridge.queries.sentence_scale",
}
FUSION = {
    "vis_project.0": "gate",
    "image_lang_att.f_query.0": "query",
    "image_lang_att.f_key.0": "key",
    "image_lang_att.f_value.0": "value",
    "image_lang_att.W.0": "out",
    "project_mm.0": "join",
}
CONSTANTS = {  # never read by ours
    "empty_sparse_emb": torch.zeros(1, 0, 256),
    "criterion.empty_weight": torch.cat((torch.ones(133), torch.tensor([0.1]))),
    "criterion.additional_weight": torch.ones(1),
    "nt_weight": torch.tensor([0.9, 1.1]),
}
DROP = (*map(re.escape, CONSTANTS), r"text_encoder\.embeddings\.position_ids", r".*\.attn_mask")


def _pairs() -> Iterator[tuple[str, str]]:
    """(official, ours) prefixes of the parts that repeat."""
    for number, ours in STREAMS.items():
        for i in range(3):
            stream = f"bridge.queries.{ours}.{i}."
            yield f"decoder.CA_layers{number}.{i}.multihead_attn.", stream + "cross.attention."
            yield f"decoder.CA_layers{number}.{i}.norm.", stream + "cross.norm."
            yield f"decoder.SA_layers{number}.{i}.self_attn.", stream + "among.attention."
            yield f"decoder.SA_layers{number}.{i}.norm.", stream + "among.norm."
            yield f"decoder.transformer_ffn_layers{number}.{i}.", stream + "forward_layer."
    for i in range(6):
        theirs, ours = f"clip_pixel_decoder.transformer.encoder.layers.{i}.", f"bridge.pixel_decoder.layers.{i}."
        for a, b in (
            ("self_attn.", "self_attn."),
            ("norm1.", "self_attn_layer_norm."),
            ("linear1.", "fc1."),
            ("linear2.", "fc2."),
            ("norm2.", "final_layer_norm."),
        ):
            yield theirs + a, ours + b
    for i in range(3):
        for theirs, ours in (("adapter", "project"), ("layer", "mix")):
            place = f"bridge.pixel_decoder.lateral.{i}.{ours}"
            yield f"clip_pixel_decoder.{theirs}_{i + 1}.norm.", place + "_norm."
            yield f"clip_pixel_decoder.{theirs}_{i + 1}.weight", place + ".weight"
    yield from _pyramid("clip", 2, (1, 0, 1))
    yield from _pyramid("sam", 4, (0, 1, 1))


def _pyramid(name: str, first: int, offsets: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """A level is numbered from its first module: its change of scale, where it has one."""
    for i, offset in enumerate(offsets):
        theirs, ours = f"backbone_{name}.simfp_{first + i}.", f"bridge.{name}_pyramid.levels.{i}."
        for conv in range(2):
            yield f"{theirs}{offset + conv}.norm.", f"{ours}{2 + 2 * conv}."
            yield f"{theirs}{offset + conv}.weight", f"{ours}{1 + 2 * conv}.weight"
        if name == "clip" and i == 0:
            yield theirs + "0.", ours + "0."


def _rules(reverse: bool) -> list[Rule]:
    """All rules; reversed they lead from ours to the official layout."""
    rules = []
    for theirs, ours in FUSION.items():
        theirs, ours = f"adaptor_clip.fusion.{theirs}.", f"bridge.fusion.{ours}."
        for leaf, change in (("weight", _unsqueeze if reverse else _squeeze), ("bias", None)):
            source, target = (ours, theirs) if reverse else (theirs, ours)
            rules.append(Rule(re.escape(source + leaf), target + leaf, change))
    for theirs, ours in SCALARS.items():
        source, target = (ours, theirs) if reverse else (theirs, ours)
        rules.append(Rule(re.escape(source), target, _scalar if reverse else _vector))
    for theirs, ours in (*_pairs(), *PREFIXES.items()):
        source, target = (ours, theirs) if reverse else (theirs, ours)
        rules.append(Rule(re.escape(source) + "(.*)", target + r"\1"))
    return rules


def _squeeze(tensor: Tensor) -> list[Tensor]:
    return [tensor[..., 0]]


def _unsqueeze(tensor: Tensor) -> list[Tensor]:
    return [tensor[..., None]]


def _vector(tensor: Tensor) -> list[Tensor]:
    return [tensor.reshape(1)]


def _scalar(tensor: Tensor) -> list[Tensor]:
    return [tensor.reshape(())]


def _of_sam() -> list[Rule]:
    """SAM's own key map beneath `sam.`."""
    return [Rule(r"sam\." + rule.pattern, f"sam.{rule.names}") for rule in (*VIT_RULES, *HEAD_RULES)]


_SAM_BACK = {  # ours -> official, beneath `sam.`
    r"encoder\.trunk\.layers\.(\d+)\.layer_norm([12])\.(.*)": r"image_encoder.blocks.\1.norm\2.\3",
    r"encoder\.trunk\.layers\.(.*)": r"image_encoder.blocks.\1",
    r"encoder\.trunk\.patch_embed\.projection\.(.*)": r"image_encoder.patch_embed.proj.\1",
    r"encoder\.trunk\.neck\.conv1\.(.*)": r"image_encoder.neck.0.\1",
    r"encoder\.trunk\.neck\.layer_norm1\.(.*)": r"image_encoder.neck.1.\1",
    r"encoder\.trunk\.neck\.conv2\.(.*)": r"image_encoder.neck.2.\1",
    r"encoder\.trunk\.neck\.layer_norm2\.(.*)": r"image_encoder.neck.3.\1",
    r"encoder\.trunk\.pos_embed": "image_encoder.pos_embed",
    r"mask_decoder\.(.*)\.mlp\.layers\.0\.(.*)": r"mask_decoder.\1.mlp.lin1.\2",
    r"mask_decoder\.(.*)\.mlp\.layers\.1\.(.*)": r"mask_decoder.\1.mlp.lin2.\2",
    r"((?:prompt_encoder|mask_decoder)\..*)": r"\1",
}

KEY_MAP = KeyMap([*_of_sam(), *_rules(reverse=False)], drop=DROP, missing=(r"bridge\.gate",))
EXPORT_MAP = KeyMap(
    [*(Rule(r"sam\." + a, f"sam.{b}") for a, b in _SAM_BACK.items()), *_rules(reverse=True)],
    drop=(r".*\.attn_mask",),
)


def import_official(source: Path | str, destination: Path | str) -> str:
    """Write a released checkpoint as ours, for `network.preset: released`; returns a report.

    Raises:
        WeightsError: a key is not accounted for, or a shape differs.
    """
    state = load_official(source)
    if "decoder.query_feat.weight" not in state:
        raise WeightsError(f"{source}: not a checkpoint of SAM + CLIP: decoder.query_feat.weight is missing")
    target = parts_for(state).state_dict()
    ours = convert(state, KEY_MAP, target)
    variant = "gRefCOCO, no-target head" if "decoder.nt_embed.layers.0.weight" in state else "referring"
    save(ours, destination, {"system": "clip_sam", "variant": variant})
    return f"variant   {variant}\n{report(state, KEY_MAP, target)}"


def export_official(source: Path | str, destination: Path | str) -> str:
    """Write our weights (preset released) in the released layout, constants included.

    Raises:
        WeightsError: a key of ours has no place there (our default preset's gate, another encoder).
    """
    state = {re.sub("^network\\.", "", key): value for key, value in load_official(source).items()}
    official, unknown = to_official(state)
    if unknown:
        raise WeightsError(
            f"{source}: {len(unknown)} keys have no place in the released layout, first: {', '.join(unknown[:3])}. "
            "Only networks of preset released with SAM ViT, CLIP and BERT can be exported"
        )
    save(official, destination, {"system": "clip_sam"})
    left = "" if any(key.startswith("sam.image_encoder.") for key in official) else " (without the frozen encoders)"
    return f"wrote     {len(official)} keys to {destination}{left}"


def to_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our state dict under the released names with the released constants, and keys that have none."""
    renamed = EXPORT_MAP.rename(state)
    constants = dict(CONSTANTS)
    if not any("decoder.nt_embed" in key for key in renamed.state):
        del constants["nt_weight"]
    return {**renamed.state, **constants}, renamed.unknown


def parts_for(state: Mapping[str, Tensor]) -> nn.Module:
    """The released network of a checkpoint's sizes, on the meta device."""
    from rvos_lightning.parts.segmenters.sam import Sam
    from rvos_lightning.parts.text.bert import BERT_BASE, Bert, TextSize
    from rvos_lightning.systems.clip_sam.network import ClipSam
    from rvos_lightning.systems.clip_sam.towers import ClipTower

    layers = 1 + max(int(key.split(".")[3]) for key in state if key.startswith("text_encoder.encoder.layer."))
    words = len(state["text_encoder.embeddings.word_embeddings.weight"])
    with torch.device("meta"):
        return ClipSam(
            Sam("sam_b"),
            ClipTower(),
            Bert(size=TextSize(words, layers=layers, positions=BERT_BASE.positions)),
            preset="released",
            allow_oracle=True,
            no_target="decoder.nt_embed.layers.0.weight" in state,
        )

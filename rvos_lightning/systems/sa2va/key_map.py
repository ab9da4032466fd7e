"""Names of the released Sa2VA checkpoints and of ours, both directions."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rvos_lightning.parts.weights import Rule

_LAYER = r"language_model\.model\.layers\.(\d+)\."
_VIT = r"vision_model\.encoder\.layers\.(\d+)\."
M = "prompter.mllm.model.model."
_L, _V = M + r"language_model.layers.\1.", M + r"vision_tower.encoder.layer.\1."

SAM2 = r"grounding_encoder\.sam2_model\."
FINETUNED, ORIGINAL = "segmenter.sam_mask_decoder.", "segmenter.original_decoder."


def split_wqkv(weight: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """InternLM2's fused projection, grouped by key-value head, to separate query, key and value weights."""
    hidden = weight.shape[1]
    kv_heads = (weight.shape[0] - hidden) // (2 * head_dim)
    groups = weight.view(kv_heads, -1, head_dim, hidden)
    return tuple(part.reshape(-1, hidden) for part in groups.split([groups.shape[1] - 2, 1, 1], 1))


def join_wqkv(query: Tensor, key: Tensor, value: Tensor, head_dim: int) -> Tensor:
    """The inverse of `split_wqkv`."""
    hidden = query.shape[1]
    kv_heads = key.shape[0] // head_dim
    parts = [part.view(kv_heads, -1, head_dim, hidden) for part in (query, key, value)]
    return torch.cat(parts, 1).reshape(-1, hidden)


def _chunk(tensor: Tensor) -> Sequence[Tensor]:
    return tensor.chunk(3, 0)


def _qkv(where: str, *names: str) -> tuple[str, ...]:
    return tuple(where.format(name) for name in names or ("q", "k", "v"))


def vision_rules() -> list[Rule]:
    """InternViT and the projector."""
    attention = _V + "attention."
    return [
        Rule(r"vision_model\.embeddings\.class_embedding", M + "vision_tower.embeddings.cls_token"),
        Rule(r"vision_model\.embeddings\.position_embedding", M + "vision_tower.embeddings.position_embeddings"),
        Rule(
            r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
            M + r"vision_tower.embeddings.patch_embeddings.projection.\1",
        ),
        Rule(_VIT + r"attn\.qkv\.(weight|bias)", _qkv(attention + r"{}_proj.\2"), _chunk),
        Rule(_VIT + r"attn\.proj\.(weight|bias)", attention + r"projection_layer.\2"),
        Rule(_VIT + r"attn\.([qk]_norm\.weight)", attention + r"\2"),
        Rule(_VIT + r"norm1\.(weight|bias)", _V + r"layernorm_before.\2"),
        Rule(_VIT + r"norm2\.(weight|bias)", _V + r"layernorm_after.\2"),
        Rule(_VIT + r"ls([12])", _V + r"lambda_\2"),
        Rule(_VIT + r"(mlp\.fc[12]\..*)", _V + r"\2"),
        Rule(r"mlp1\.0\.(weight|bias)", M + r"multi_modal_projector.layer_norm.\1"),
        Rule(r"mlp1\.1\.(weight|bias)", M + r"multi_modal_projector.linear_1.\1"),
        Rule(r"mlp1\.3\.(weight|bias)", M + r"multi_modal_projector.linear_2.\1"),
    ]


def language_rules(head_dim: int) -> list[Rule]:
    """InternLM2 (as Llama), then Qwen2 and Phi3, whose names transformers shares."""

    def split(weight: Tensor) -> Sequence[Tensor]:
        return split_wqkv(weight, head_dim)

    return [
        Rule(r"language_model\.model\.tok_embeddings\.weight", M + "language_model.embed_tokens.weight"),
        Rule(r"language_model\.output\.weight", "prompter.mllm.model.lm_head.weight"),
        Rule(_LAYER + r"attention\.wqkv\.weight", _qkv(_L + "self_attn.{}_proj.weight"), split),
        Rule(_LAYER + r"attention\.wo\.weight", _L + "self_attn.o_proj.weight"),
        Rule(_LAYER + r"feed_forward\.w1\.weight", _L + "mlp.gate_proj.weight"),
        Rule(_LAYER + r"feed_forward\.w3\.weight", _L + "mlp.up_proj.weight"),
        Rule(_LAYER + r"feed_forward\.w2\.weight", _L + "mlp.down_proj.weight"),
        Rule(_LAYER + r"attention_norm\.weight", _L + "input_layernorm.weight"),
        Rule(_LAYER + r"ffn_norm\.weight", _L + "post_attention_layernorm.weight"),
        Rule(r"language_model\.lm_head\.weight", "prompter.mllm.model.lm_head.weight"),
        Rule(r"language_model\.model\.(.*)", M + r"language_model.\1"),
    ]


def sam2_rules(two_decoders: bool) -> list[Rule]:
    """SAM 2; with two decoders (Sa2VA-i) the plain name is Meta's original and `_modified` the finetuned one."""
    plain = ORIGINAL if two_decoders else FINETUNED
    return [
        Rule(r"text_hidden_fcs\.([02])\.(weight|bias)", r"prompter.to_prompt.\1.\2"),
        Rule(SAM2 + r"sam_mask_decoder_modified\.(.*)", FINETUNED + r"\1"),
        Rule(SAM2 + r"sam_mask_decoder\.(.*)", plain + r"\1"),
        Rule(SAM2 + r"(memory_encoder\.fuser\.layers\.\d+)\.g_weight", r"segmenter.\1.gamma"),
        Rule(SAM2 + r"(.*)", r"segmenter.\1"),
    ]


def key_rules(head_dim: int = 128, two_decoders: bool = False) -> list[Rule]:
    """Official key -> ours, first match wins."""
    return [*vision_rules(), *language_rules(head_dim), *sam2_rules(two_decoders)]


def to_official(
    state: Mapping[str, Tensor], internlm2: bool, head_dim: int = 128
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Official names of our (merged) keys, each with a function that makes the tensor when it is wanted.

    A second decoder (`segmenter.original_decoder`) makes a Sa2VA-i layout.
    """
    two = any(key.startswith(ORIGINAL) for key in state)
    backwards = _backwards(internlm2, two)
    for key in state:
        if re.fullmatch(r".*\.(k_proj|v_proj)\.(weight|bias)", key) and _fused(key, internlm2):
            continue
        for pattern, name in backwards:
            if match := re.fullmatch(pattern, key):
                yield match.expand(name), _maker(state, key, internlm2, head_dim)
                break
        else:
            raise KeyError(key)


def _fused(key: str, internlm2: bool) -> bool:
    return "vision_tower" in key or (internlm2 and "language_model.layers" in key)


def _maker(state: Mapping[str, Tensor], key: str, internlm2: bool, head_dim: int) -> Callable[[], Tensor]:
    if not (".q_proj." in key and _fused(key, internlm2)):
        return lambda: state[key]
    keys = [key.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
    if "vision_tower" in key:
        return lambda: torch.cat([state[k] for k in keys])
    return lambda: join_wqkv(*(state[k] for k in keys), head_dim=head_dim)


def _backwards(internlm2: bool, two_decoders: bool) -> list[tuple[str, str]]:
    m, sam = re.escape(M), "grounding_encoder.sam2_model."
    vit, vis = m + r"vision_tower\.encoder\.layer\.(\d+)\.", r"vision_model.encoder.layers.\1."
    lay, lan = m + r"language_model\.layers\.(\d+)\.", r"language_model.model.layers.\1."
    head = "prompter\\.mllm\\.model\\.lm_head\\.weight"
    modified = "_modified" if two_decoders else ""
    pairs = [
        (m + r"vision_tower\.embeddings\.cls_token", "vision_model.embeddings.class_embedding"),
        (m + r"vision_tower\.embeddings\.position_embeddings", "vision_model.embeddings.position_embedding"),
        (
            m + r"vision_tower\.embeddings\.patch_embeddings\.projection\.(.*)",
            r"vision_model.embeddings.patch_embedding.\1",
        ),
        (vit + r"attention\.q_proj\.(.*)", vis + r"attn.qkv.\2"),
        (vit + r"attention\.projection_layer\.(.*)", vis + r"attn.proj.\2"),
        (vit + r"attention\.([qk]_norm\..*)", vis + r"attn.\2"),
        (vit + r"layernorm_before\.(.*)", vis + r"norm1.\2"),
        (vit + r"layernorm_after\.(.*)", vis + r"norm2.\2"),
        (vit + r"lambda_([12])", vis + r"ls\2"),
        (vit + r"(mlp\..*)", vis + r"\2"),
        (m + r"multi_modal_projector\.layer_norm\.(.*)", r"mlp1.0.\1"),
        (m + r"multi_modal_projector\.linear_1\.(.*)", r"mlp1.1.\1"),
        (m + r"multi_modal_projector\.linear_2\.(.*)", r"mlp1.3.\1"),
        (r"prompter\.to_prompt\.(.*)", r"text_hidden_fcs.\1"),
        (re.escape(FINETUNED) + "(.*)", sam + rf"sam_mask_decoder{modified}.\1"),
        (re.escape(ORIGINAL) + "(.*)", sam + r"sam_mask_decoder.\1"),
        (r"segmenter\.(memory_encoder\.fuser\.layers\.\d+)\.gamma", sam + r"\1.g_weight"),
        (r"segmenter\.(.*)", sam + r"\1"),
    ]
    if not internlm2:
        return [
            *pairs,
            (head, "language_model.lm_head.weight"),
            (m + r"language_model\.(.*)", r"language_model.model.\1"),
        ]
    return [
        *pairs,
        (head, "language_model.output.weight"),
        (m + r"language_model\.embed_tokens\.weight", "language_model.model.tok_embeddings.weight"),
        (m + r"language_model\.norm\.weight", "language_model.model.norm.weight"),
        (lay + r"self_attn\.q_proj\.weight", lan + "attention.wqkv.weight"),
        (lay + r"self_attn\.o_proj\.weight", lan + "attention.wo.weight"),
        (lay + r"mlp\.gate_proj\.weight", lan + "feed_forward.w1.weight"),
        (lay + r"mlp\.up_proj\.weight", lan + "feed_forward.w3.weight"),
        (lay + r"mlp\.down_proj\.weight", lan + "feed_forward.w2.weight"),
        (lay + r"input_layernorm\.weight", lan + "attention_norm.weight"),
        (lay + r"post_attention_layernorm\.weight", lan + "ffn_norm.weight"),
    ]

"""Initial weights with which a language model of a few layers learns in minutes to see what moves where.

With the libraries' own initial weights attention starts uniform over some hundred visual tokens, and neither motion
nor "which of two like things" is found in minutes. Published training starts from InternVL and needs none of this.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rvos_lightning.systems.sa2va.sizes import MLLMSize

SHARP, WIDE = 6.0, 3.0  # strength of a head's preference: one token alone, or about a dozen around it
BLUR = 0.1  # of these heads' matrices against those of others: content has little say at first
QUIET = 0.05  # what all other heads write at first, against the wide ones: else [SEG] hears little of the question
NEAR = (9, 5)  # how many tokens back the wide heads look: a question's last words, seen from [SEG]


def start_near(model: Any, size: MLLMSize) -> None:
    """Set initial weights of an InternVL model with a Qwen2 language model, in place.

    Matrices are normal with variance 1 / fan-in, those that write to the residual stream with a quarter of it. Of the
    first layer's heads five look at the previous frame, at the same place and one visual token to its right, left,
    below and above, through their query and key biases and the rotary position code; two heads of every layer look
    at the last dozen tokens, and all others write little at first. All of this is trained on.

    Raises:
        ValueError: fewer than 7 heads, shared keys, or no biases.
    """
    language = size.language
    if language.family != "qwen2" or language.heads < 7 or language.kv_heads != language.heads:
        raise ValueError(
            f"start: near needs a qwen2 language model with kv_heads = heads >= 7, got {language.family} with "
            f"{language.heads} heads and {language.kv_heads} kv_heads; change size.language or use start: published"
        )
    for module in (model.model.vision_tower, model.model.multi_modal_projector, model.model.language_model):
        for name, parameter in module.named_parameters():
            if parameter.ndim == 2 and "embed_tokens" not in name:
                written = name.endswith(("o_proj.weight", "down_proj.weight", "projection_layer.weight", "fc2.weight"))
                nn.init.normal_(parameter, std=(0.5 if written else 1.0) / parameter.shape[1] ** 0.5)
    nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.5)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    side = int(size.vision.tokens**0.5)
    frame = size.vision.tokens + 3  # </img>, newline, <img>
    for i, layer in enumerate(model.model.language_model.layers):
        places = [(frame + shift, False) for shift in (0, 1, -1, side, -side)] if i == 0 else []
        _look_back(layer.self_attn, [*places, *((back, True) for back in NEAR)], language.heads, language.rope_theta)


@torch.no_grad()
def _look_back(attention: Any, places: list[tuple[int, bool]], heads: int, theta: float) -> None:
    """Give the first heads biases whose score is highest for the token so many places back, whatever it is."""
    queries, keys = (proj.bias.view(heads, -1) for proj in (attention.q_proj, attention.k_proj))
    for proj in (attention.q_proj, attention.k_proj):
        proj.weight[: len(places) * queries.shape[1]] *= BLUR
    half, loudness = queries.shape[1] // 2, torch.full((heads, 1, 1), QUIET, device=queries.device)
    turns = theta ** (-torch.arange(half, device=queries.device) / half)
    for head, (back, wide) in enumerate(places):
        strength = _strengths(turns, wide)
        loudness[head] = 1.0 if wide else QUIET
        queries[head] = torch.cat([(back * turns).cos() * strength, -(back * turns).sin() * strength])
        keys[head] = torch.cat([strength, torch.zeros_like(strength)])
    attention.v_proj.weight.view(heads, 2 * half, -1).mul_(loudness)


def _strengths(turns: Float[Tensor, "half"], wide: bool) -> Float[Tensor, "half"]:
    """How much each rotary frequency takes part; a wide head needs the middle ones only."""
    return WIDE * ((turns > 0.04) & (turns < 0.25)).to(turns.dtype) if wide else torch.full_like(turns, SHARP)

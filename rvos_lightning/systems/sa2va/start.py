"""Initial weights with which a language model of a few layers learns in minutes to see what moves where.

With the libraries' own initial weights attention starts uniform over some hundred visual tokens, and neither motion
nor "which of two like things" is found in minutes. Published training starts from InternVL and needs none of this.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rvos_lightning.systems.sa2va.sizes import MLLMSize

SHARP, WIDE = 6.0, 3.0  # strength of a head's preference: one token alone, or about a dozen around it
BLUR = 0.1  # of these heads' matrices against those of others: content has little say at first
QUIET = 0.05  # what all other heads write at first, against the wide ones: else [SEG] hears little of the question
AROUND = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))  # patches down and to the right
GAZE = 8.0  # strength of a vision head's preference for its neighbour
POINTING = 2  # heads of the last layer that look for what the asking token says, wherever it is
MEET = 0.9  # strength of their queries and keys
CONSTANT = 3.0  # of their queries' one channel that is the same for all
LOUD = 4.0  # what they write, against others
SLOW = 0.003  # radians a token: so far rotary frequencies of queries and keys still agree over hundreds of tokens
NEAR = (9, 5)  # how many tokens back the wide heads look: a question's last words, seen from [SEG]


def start_near(model: Any, size: MLLMSize) -> None:
    """Set initial weights of an InternVL model with a Qwen2 language model, in place.

    Matrices are normal with variance 1 / fan-in, those that write to the residual stream with a quarter of it. Of the
    first layer's heads five look at the previous frame, at the same place and one visual token to its right, left,
    below and above, through their query and key biases and the rotary position code; two heads of every layer look
    at the last dozen tokens; the last layer's last two look for tokens like the one that asks (`_seek`), and all others
    write little at first. All of this is trained on.

    Raises:
        ValueError: fewer than 8 heads, shared keys, or no biases; vision heads of fewer than 8 channels.
    """
    language = size.language
    if language.family != "qwen2" or language.heads < 8 or language.kv_heads != language.heads:
        raise ValueError(
            f"start: near needs a qwen2 language model with kv_heads = heads >= 8, got {language.family} with "
            f"{language.heads} heads and {language.kv_heads} kv_heads; change size.language or use start: published"
        )
    if size.vision.width // size.vision.heads < 8:
        raise ValueError(
            f"start: near needs vision heads of 8 channels or more, {size.vision.heads} heads share "
            f"{size.vision.width}; change size.vision or use start: published"
        )
    for module in (model.model.vision_tower, model.model.multi_modal_projector, model.model.language_model):
        for name, parameter in module.named_parameters():
            if parameter.ndim == 2 and "embed_tokens" not in name:
                written = name.endswith(("o_proj.weight", "down_proj.weight", "projection_layer.weight", "fc2.weight"))
                nn.init.normal_(parameter, std=(0.5 if written else 1.0) / parameter.shape[1] ** 0.5)
    _look_around(model.model.vision_tower)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    side = int(size.vision.tokens**0.5)
    frame = size.vision.tokens + 3  # </img>, newline, <img>
    for i, layer in enumerate(model.model.language_model.layers):
        places = [(frame + shift, False) for shift in (0, 1, -1, side, -side)] if i == 0 else []
        _look_back(layer.self_attn, [*places, *((back, True) for back in NEAR)], language.heads, language.rope_theta)
    _seek(model.model.language_model.layers[-1].self_attn, language.heads, language.rope_theta)


@torch.no_grad()
def _look_around(tower: Any) -> None:
    """Let every head look at one neighbour of each patch at first, so that two layers start as convolutions do.

    As a plain ViT takes long to find this (arXiv 2404.01139 starts attention so, too). Positions are waves, two of them
    in channels that nothing else writes to at first, by which queries and keys of a head meet at its neighbour. Blocks
    weigh in fully (published layer scales are 0.1).
    """
    codes = tower.embeddings.position_embeddings
    side, width = round((codes.shape[1] - 1) ** 0.5), codes.shape[2] // 4
    turns = (2 * torch.pi / 4) * 12.0 ** (-torch.arange(width) / width)  # of 4 to 48 patches
    wave = torch.arange(side)[:, None] * turns
    wave = torch.cat([wave.sin(), wave.cos()], 1)
    codes[0, 1:] = torch.cat([wave[:, None].expand(-1, side, -1), wave.expand(side, -1, -1)], 2).flatten(0, 1)
    used = torch.tensor([0, (2 * width) // 5])  # of 4 and of about 11 patches
    sines = torch.cat([used, used + 2 * width])  # down, then to the right
    kept = torch.cat([sines, sines + width])
    codes[..., [c for c in range(codes.shape[2]) if c not in kept.tolist()]] *= BLUR
    projection = tower.embeddings.patch_embeddings.projection
    nn.init.normal_(projection.weight, std=projection.weight[0].numel() ** -0.5)
    projection.weight[kept] = projection.bias[kept] = 0
    for layer in tower.encoder.layer:
        nn.init.ones_(layer.lambda_1)
        nn.init.ones_(layer.lambda_2)
        layer.attention.projection_layer.weight[kept] = layer.mlp.fc2.weight[kept] = 0
        _look_aside(layer.attention, sines, turns[used], width)


def _look_aside(attention: Any, sines: Int[Tensor, "waves"], turns: Float[Tensor, "half"], cosine: int) -> None:
    """Give each head queries and keys that meet at one of eight neighbours."""
    heads, half = attention.num_heads, len(turns)
    size = attention.q_proj.weight.shape[0] // heads
    queries, keys = (proj.weight.view(heads, size, -1) for proj in (attention.q_proj, attention.k_proj))
    rows = torch.arange(2 * half)
    for head in range(heads):
        shift = torch.tensor(AROUND[head % len(AROUND)]).repeat_interleave(half) * turns.repeat(2)
        queries[head], keys[head] = BLUR * queries[head], BLUR * keys[head]
        near, far = GAZE * shift.cos(), GAZE * shift.sin()
        queries[head, rows, sines], queries[head, rows, sines + cosine] = near, far
        queries[head, rows + 2 * half, sines], queries[head, rows + 2 * half, sines + cosine] = -far, near
        keys[head, rows, sines] = keys[head, rows + 2 * half, sines + cosine] = 1.0


@torch.no_grad()
def _look_back(attention: Any, places: list[tuple[int, bool]], heads: int, theta: float) -> None:
    """Give the first heads biases whose score is highest for the token so many places back, whatever it is."""
    queries, keys = (proj.bias.view(heads, -1) for proj in (attention.q_proj, attention.k_proj))
    for proj in (attention.q_proj, attention.k_proj):
        proj.weight[: len(places) * queries.shape[1]] *= BLUR
    half, loudness = queries.shape[1] // 2, torch.full((heads, 1, 1), QUIET, device=queries.device)
    turns = _turns(half, theta, queries.device)
    for head, (back, wide) in enumerate(places):
        strength = _strengths(turns, wide)
        loudness[head] = 1.0 if wide else QUIET
        queries[head] = torch.cat([(back * turns).cos() * strength, -(back * turns).sin() * strength])
        keys[head] = torch.cat([strength, torch.zeros_like(strength)])
    attention.v_proj.weight.view(heads, 2 * half, -1).mul_(loudness)


@torch.no_grad()
def _seek(attention: Any, heads: int, theta: float) -> None:
    """Give the last heads equal queries and keys, so that a token looks at others whose states say the same.

    They read a few random directions of the states, through rotary frequencies too slow for distance to matter; one
    more channel of the queries is constant, by which keys can learn to be looked at by all or by none. What these heads
    look at they write loudly.
    """
    size = attention.q_proj.bias.shape[0] // heads
    slow = (_turns(size // 2, theta, attention.q_proj.bias.device) < SLOW).nonzero()[:, 0]
    rows = torch.cat([slow, slow + size // 2])
    shared = nn.init.orthogonal_(attention.q_proj.weight.new_empty(len(rows), attention.q_proj.weight.shape[1]))
    for proj in (attention.q_proj, attention.k_proj):
        proj.weight.view(heads, size, -1)[-POINTING:] = 0
        proj.bias.view(heads, size)[-POINTING:] = 0
        proj.weight.view(heads, size, -1)[-POINTING:, rows] = MEET * shared
    attention.q_proj.bias.view(heads, size)[-POINTING:, slow[0] - 1] = CONSTANT
    attention.v_proj.weight.view(heads, size, -1)[-POINTING:] /= QUIET
    attention.o_proj.weight[:, -POINTING * size :] *= LOUD


def _turns(half: int, theta: float, device: torch.device) -> Float[Tensor, "half"]:
    """Rotary frequencies, in radians a token."""
    return theta ** (-torch.arange(half, device=device) / half)


def _strengths(turns: Float[Tensor, "half"], wide: bool) -> Float[Tensor, "half"]:
    """How much each rotary frequency takes part; a wide head needs the middle ones only."""
    return WIDE * ((turns > 0.04) & (turns < 0.25)).to(turns.dtype) if wide else torch.full_like(turns, SHARP)

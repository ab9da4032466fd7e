"""Initial values with which small segmenters learn in minutes; the architectures stay as published.

Published decoders and memories are trained for days, in which attention finds out by itself what belongs together.
"""

import torch
from torch import nn


def start_decoder(decoder: nn.Module, scale: float = 2.0) -> None:
    """Start a mask decoder (sam2 package) so that a click attends to its own place, and objects as present.

    Queries and keys between tokens and image start with equal projections: their position codes are most alike where
    the click is. Objects start as present, as absent ones teach no masks.
    """
    transformer = decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    with torch.no_grad():
        for attention in attentions:
            attention.q_proj.weight *= scale
            attention.k_proj.load_state_dict(attention.q_proj.state_dict())
        if decoder.pred_obj_scores:
            decoder.pred_obj_score_head.layers[-1].bias.fill_(2.0)


def start_memory(attention: nn.Module, strength: float = 3.5) -> None:
    """Start rotary attention to memories with equal constants in queries and keys: every place reads its own place.

    After rotation their product is largest where both have one position. At random, attention to memory starts uniform
    and says nothing about places; from scratch it took more steps than a small run has until memory was read at all.
    With this start a mask is carried on from the first step.
    """
    nn.init.constant_(attention.q_proj.bias, strength)
    nn.init.constant_(attention.k_proj.bias, strength)

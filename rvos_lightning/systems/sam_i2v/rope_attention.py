"""Attention with 2-D rotary positions, and the sine codes, as SAM 2 and SAM-I2V use them."""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from torch.nn import functional

Rotation = tuple[Float[Tensor, "_positions _dim"], Float[Tensor, "_positions _dim"]]
"""Cosine and signed sine of every position and channel; channels turn in adjacent pairs."""

Phases = Complex[Tensor, "_positions _pairs"]
"""The same as one complex number of length 1 for every position and pair of channels."""


def rotation(dim: int, width: int, height: int, device: torch.device | None = None, theta: float = 1e4) -> Rotation:
    """Rotation table of a grid in row order: the first half of the pairs turns with x, the second with y."""
    frequency = 1.0 / theta ** (torch.arange(0, dim, 4, dtype=torch.float32, device=device) / dim)
    index = torch.arange(width * height, device=device)
    x, y = (index % width).float(), torch.div(index, width, rounding_mode="floor").float()
    angle = torch.cat([torch.outer(x, frequency), torch.outer(y, frequency)], 1)
    sine = angle.sin()
    return angle.cos().repeat_interleave(2, 1), torch.stack([-sine, sine], 2).flatten(1)


def table_of(dim: int, width: int, height: int, device: torch.device) -> Rotation | Phases:
    """`rotation` in the form in which this device turns fastest: complex, one table for all calls.

    The compiler has no complex kernels, and fuses the real form.
    """
    if torch.compiler.is_compiling() or device.type not in ("cpu", "cuda"):
        return rotation(dim, width, height, device)
    return phases(dim, width, height, device)


@lru_cache(maxsize=16)
def phases(dim: int, width: int, height: int, device: torch.device) -> Phases:
    """`rotation` as complex numbers; an ordinary tensor whoever asks first, so that training may use it later."""
    with torch.inference_mode(False), torch.no_grad():
        cosine, sine = rotation(dim, width, height, device)
        return torch.complex(cosine[:, 0::2], sine[:, 1::2])


def rotate(x: Float[Tensor, "batch tokens dim"], table: Rotation | Phases) -> Float[Tensor, "batch tokens dim"]:
    """Turn the leading tokens, the table repeated as often as it fits; tokens beyond stay as they are."""
    if isinstance(table, Tensor):
        repeats = x.shape[1] // len(table)
        rest = x[:, repeats * len(table) :]
        pairs = x[:, : repeats * len(table)].float().unflatten(1, (repeats, -1)).unflatten(-1, (-1, 2))
        turned = torch.view_as_real(torch.view_as_complex(pairs) * table).flatten(3).flatten(1, 2).to(x.dtype)
        return torch.cat([turned, rest], 1) if rest.shape[1] else turned
    cosine, sine = table
    repeats = x.shape[1] // len(cosine)
    rest = x[:, repeats * len(cosine) :]
    turned = x[:, : repeats * len(cosine)].float().unflatten(1, (repeats, -1))
    swapped = turned.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    turned = (turned * cosine + swapped * sine).flatten(1, 2).to(x.dtype)
    return torch.cat([turned, rest], 1) if rest.shape[1] else turned


SCORES = 1 << 18
"""Attention weights in the making that stay in a core's cache."""


def thin_attention(
    query: Float[Tensor, "batch queries dim"],
    key: Float[Tensor, "batch keys dim"],
    value: Float[Tensor, "batch keys narrow"],
    bias: Float[Tensor, "#batch 1 keys"] | Bool[Tensor, "#batch 1 keys"] | None = None,
) -> Float[Tensor, "batch queries narrow"]:
    """Attention to values narrower than keys, some queries at a time; PyTorch's fast CPU kernel wants equal widths."""
    parts, keys = [], key.transpose(1, 2)
    for part in (query * query.shape[-1] ** -0.5).split(max(1, SCORES // (len(key) * key.shape[1])), 1):
        scores = part @ keys
        if bias is not None:
            scores = scores.masked_fill_(~bias, float("-inf")) if bias.dtype == torch.bool else scores.add_(bias)
        parts.append(scores.softmax(-1) @ value)
    return torch.cat(parts, 1)


class RotaryAttention(nn.Module):
    """One-headed attention whose queries and spatial keys are rotated.

    Values are projected behind the weighted mean, not before, where memories are narrower than queries and a CPU only
    has to say the result: there are fewer of them to project, and the mean itself costs a fraction.

    Args:
        dim: width of queries and inside.
        key_dim: width of keys and values.
        dropout: on the attention weights, in training.
    """

    def __init__(self, dim: int, key_dim: int | None = None, dropout: float = 0.1):
        super().__init__()
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(key_dim or dim, dim)
        self.v_proj = nn.Linear(key_dim or dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        key: Float[Tensor, "batch keys key_dim"],
        value: Float[Tensor, "batch keys key_dim"],
        query_table: Rotation | Phases,
        key_table: Rotation | Phases,
        spatial: int | None = None,
        bias: Float[Tensor, "#batch #queries keys"] | Bool[Tensor, "#batch #queries keys"] | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attend; only the first `spatial` keys are rotated (all by default).

        `bias` is added to the logits, or keeps keys where True.
        """
        q = rotate(self.q_proj(query), query_table)
        k = self.k_proj(key)
        spatial = k.shape[1] if spatial is None else spatial
        if spatial:
            turned, rest = rotate(k[:, :spatial], key_table), k[:, spatial:]
            k = torch.cat([turned, rest], 1) if rest.shape[1] else turned
        if self.late(q, value) and (bias is None or bias.shape[1] == 1):
            return self.projected(thin_attention(q, k, value, bias))
        v = self.v_proj(value)
        if bias is not None and bias.dtype != torch.bool:
            bias = bias.to(q.dtype)
        out = functional.scaled_dot_product_attention(
            q[:, None],
            k[:, None],
            v[:, None],
            attn_mask=None if bias is None else bias[:, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(out[:, 0])

    def projected(self, mean: Float[Tensor, "batch queries key_dim"]) -> Float[Tensor, "batch queries dim"]:
        """`out_proj(v_proj(mean))` by one product for the two, read off the layers, whatever they hold inside."""
        corners = torch.eye(mean.shape[-1] + 1, mean.shape[-1], dtype=mean.dtype, device=mean.device)
        images = self.out_proj(self.v_proj(corners))
        origin = images[-1]
        return functional.linear(mean, (images[:-1] - origin).T, origin)

    def late(self, query: Float[Tensor, "batch queries dim"], value: Float[Tensor, "batch keys key_dim"]) -> bool:
        """Values are projected last. Never in training: dropped weights do not sum to 1, as the bias would need."""
        plain = query.device.type == "cpu" and query.dtype == value.dtype == torch.float32
        answering = not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        return answering and plain and value.shape[-1] < query.shape[-1]


def sine_2d(dim: int, height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "dim h w"]:
    """Sine position code of a grid: first half from y, second from x, positions scaled to 2 pi."""
    half = dim // 2
    channel = torch.arange(half, dtype=torch.float32, device=device)
    period = 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)

    def axis(length: int) -> Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * 2 * math.pi
        angle = position[:, None] / period
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

    y, x = axis(height), axis(width)
    return torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], 2).permute(2, 0, 1)


def sine_1d(position: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape dim"]:
    """Sine code of single numbers: first half sines, second half cosines."""
    half = dim // 2
    channel = torch.arange(half, dtype=torch.float32, device=position.device)
    angle = position[..., None] / 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)
    return torch.cat([angle.sin(), angle.cos()], -1)


class SinePosition(nn.Module):
    """`sine_2d` of a feature map's grid, in the form SAM 2's memory encoder asks for."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, x: Float[Tensor, "batch _c h w"]) -> Float[Tensor, "1 dim h w"]:
        """No cache: one kept from inference mode would break a later backward pass."""
        return sine_2d(self.dim, *x.shape[-2:], device=x.device)[None]

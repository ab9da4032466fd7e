"""timm's TinyViT without needless work; imports timm.

Where a map does not fill its last windows, timm pads it with zeros, which a window's cells then attend to. Padding
always has the same key and value, so that all of a window's together are one more key, whose bias is the logarithm of
what theirs add up to. Padding's own answers are cut off again, so nobody asks for them here. At 256 pixels a third
of the cells are left, at 1024 five sixths. In evaluation, a batch's normalisation is part of the convolution before it.
"""

import torch
from jaxtyping import Float
from timm.models.tiny_vit import Attention, ConvNorm, TinyVitBlock
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.parts.segmenters.windows import joined, parts, windows


class RealCellsAttention(Attention):
    """TinyViT's attention, of a map; its bias has a batch axis.

    Without that axis `scaled_dot_product_attention` takes the slow path of separate operators on a CPU.
    """

    def get_attention_biases(self, device: torch.device) -> Float[Tensor, "1 heads tokens tokens"]:
        """The bias of every head, query and key; compiled, without timm's cache: a graph holds for one state of it."""
        if torch.compiler.is_compiling():
            return self.attention_biases[:, self.attention_bias_idxs][None]
        return super().get_attention_biases(device)[None]

    def forward(self, x: Float[Tensor, "images h w c"]) -> Float[Tensor, "images h w c"]:
        """Attend in windows of the resolution that the attention was built for."""
        tall, wide = self.resolution
        bias = self.get_attention_biases(x.device)
        nothing = self.qkv(self.norm(x.new_zeros(1, 1, x.shape[-1])))
        bands = parts(self.qkv(self.norm(x)), 1, tall)
        rows = [torch.cat([self._attend(p, nothing, bias) for p in parts(band, 2, wide)], 2) for band in bands]
        return self.proj(torch.cat(rows, 1))

    def _attend(
        self,
        qkv: Float[Tensor, "images _h _w thrice"],
        nothing: Float[Tensor, "1 1 thrice"],
        bias: Float[Tensor, "1 heads tokens tokens"],
    ) -> Float[Tensor, "images _h _w c"]:
        """What queries read in a part of the map whose windows are all filled alike."""
        tall, wide = (min(side, whole) for side, whole in zip(qkv.shape[1:3], self.resolution, strict=True))
        cells, real = windows(qkv, tall, wide), tall * wide
        if real < bias.shape[-1]:
            cells = torch.cat([cells, nothing.expand(len(cells), -1, -1)], 1)
            bias = self._cut(bias, tall, wide)
        split = cells.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q, k, v = split.split([self.key_dim, self.key_dim, self.val_dim], -1)
        mixed = attend(q[:, :, :real], k, v, bias)
        return joined(mixed.transpose(1, 2).flatten(2), qkv.shape[:3], tall, wide)

    def _cut(
        self, bias: Float[Tensor, "1 heads tokens tokens"], tall: int, wide: int
    ) -> Float[Tensor, "1 heads _real _real_and_padding"]:
        """The bias among a cut window's cells, and last that of all its padding together."""
        window = torch.arange(bias.shape[-1], device=bias.device).view(self.resolution)
        real = window[:tall, :wide].flatten()
        padding = torch.cat([window[:tall, wide:].flatten(), window[tall:].flatten()])
        rows = bias[:, :, real]
        return torch.cat([rows[..., real], rows[..., padding].logsumexp(-1, keepdim=True)], -1)


def attend(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch heads keys dim"],
    value: Float[Tensor, "batch heads keys dim"],
    bias: Float[Tensor, "1 heads queries keys"],
) -> Float[Tensor, "batch heads queries dim"]:
    """Attention with a bias; spelled out where PyTorch's CPU kernel has no gradient for it and takes more steps."""
    if query.device.type == "cpu" and bias.requires_grad and not torch.compiler.is_compiling():
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + bias
        return scores.softmax(-1) @ value
    return functional.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))


class RealCellsBlock(TinyVitBlock):
    """A block of TinyViT that hands its attention the map instead of windows."""

    def forward(self, x: Float[Tensor, "images h w c"]) -> Float[Tensor, "images h w c"]:
        """See `TinyVitBlock`."""
        x = x + self.drop_path1(self.attn(x))
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.drop_path2(self.mlp(x))


class FoldedConvNorm(ConvNorm):
    """A convolution and its normalisation, one operator in evaluation.

    Not where gradients may be asked for: sharded strategies gather a convolution's weight for its own call.
    """

    def forward(self, x: Float[Tensor, "images _c _h _w"]) -> Float[Tensor, "images _c2 _h2 _w2"]:
        """See `ConvNorm`."""
        conv, norm = self.conv, self.bn
        if norm.training or torch.is_grad_enabled():
            return super().forward(x)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        bias = norm.bias - norm.running_mean * scale
        return functional.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


SHORT = {Attention: RealCellsAttention, TinyVitBlock: RealCellsBlock, ConvNorm: FoldedConvNorm}
"""timm's classes and ours, which hold the same under the same names."""


def without_needless_work(trunk: nn.Module) -> None:
    """Let every block and convolution of a TinyViT that timm has built take the short way."""
    for module in trunk.modules():
        module.__class__ = SHORT.get(type(module), type(module))

"""The deformable transformer over four levels, its queries a sentence (Deformable DETR, arXiv 2010.04159)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrMultiscaleDeformableAttention

from rvos_lightning.parts.layers.mlp import MLP
from rvos_lightning.systems.sgmg.positions import place_code
from rvos_lightning.systems.sgmg.sampling import BagAttention

EDGE = 1e-5
"""`inverse_sigmoid` keeps this far from 0 and 1."""


@dataclass(frozen=True)
class Levels:
    """Maps of several strides as one sequence of places.

    Attributes:
        places: features.
        code: codes of place and level.
        real: False on padding.
        sizes: (height, width) of each map.
        ratios: share of each map's (width, height) that is picture.
    """

    places: Float[Tensor, "images places dim"]
    code: Float[Tensor, "images places dim"]
    real: Bool[Tensor, "images places"]
    sizes: list[tuple[int, int]]
    ratios: Float[Tensor, "images levels 2"]

    def attend(self) -> dict[str, object]:
        """What deformable attention must know of the maps."""
        sizes = torch.tensor(self.sizes, device=self.places.device)
        starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
        real = None if bool(self.real.all()) else self.real
        return {
            "attention_mask": real,
            "spatial_shapes": sizes,
            "spatial_shapes_list": self.sizes,
            "level_start_index": starts,
        }

    def cells(self) -> Float[Tensor, "images places levels 2"]:
        """Centres of all cells as (x, y), in every level's own, padded, coordinates."""
        centres = []
        for level, (height, width) in enumerate(self.sizes):
            rows = torch.arange(height, device=self.places.device, dtype=torch.float32) + 0.5
            columns = torch.arange(width, device=self.places.device, dtype=torch.float32) + 0.5
            ratio = self.ratios[:, level, None, :]
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            x = x.flatten()[None] / (ratio[..., 0] * width)
            y = y.flatten()[None] / (ratio[..., 1] * height)
            centres.append(torch.stack([x, y], -1))
        return torch.cat(centres, 1)[:, :, None] * self.ratios[:, None]


@dataclass(frozen=True)
class Decoded:
    """What the decoder says after each of its layers.

    Attributes:
        states: of the queries.
        boxes: centre x, centre y, width, height relative to the picture; with gradient.
        start: the first references, before any layer.
    """

    states: Float[Tensor, "layers images queries dim"]
    boxes: Float[Tensor, "layers images queries 4"]
    start: Float[Tensor, "#images _queries 2"]


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)), finite at 0 and 1."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=EDGE) / (1 - x).clamp(min=EDGE))


def attention(dim: int, heads: int, levels: int, points: int) -> DeformableDetrMultiscaleDeformableAttention:
    """transformers' deformable attention, in plain torch; its points start on rings around the reference."""
    config = DeformableDetrConfig(d_model=dim, num_feature_levels=levels, disable_custom_kernels=True)
    built = DeformableDetrMultiscaleDeformableAttention(config, heads, points)
    built.attn = BagAttention()
    angles = torch.arange(heads) * (2 * torch.pi / heads)
    rays = torch.stack([angles.cos(), angles.sin()], -1)
    rays = (rays / rays.abs().amax(-1, keepdim=True)).view(heads, 1, 1, 2).repeat(1, levels, points, 1)
    rays = rays * torch.arange(1, points + 1).view(1, 1, -1, 1)
    with torch.no_grad():
        for projection in (built.value_proj, built.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        for projection in (built.sampling_offsets, built.attention_weights):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
        built.sampling_offsets.bias.copy_(rays.flatten())
    return built


class FeedForward(nn.Module):
    """Two linear layers beside a residual, and a norm after."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """`x` after the block, of its shape."""
        hidden = F.relu(self.linear1(x), inplace=not torch.is_grad_enabled())
        hidden = F.dropout(hidden, self.dropout, self.training)
        return self.norm(x + F.dropout(self.linear2(hidden), self.dropout, self.training))


class EncoderLayer(nn.Module):
    """Every place looks at a few places of all levels."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention(dim, heads, levels, points)
        self.norm = nn.LayerNorm(dim)
        self.feed = FeedForward(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, levels: Levels, cells: Tensor) -> Tensor:
        """The places after one layer."""
        seen = exact(self.attention, x, levels.code, x, cells, levels)
        return self.feed(self.norm(x + self.dropout(seen)))


class DecoderLayer(nn.Module):
    """The queries look at each other, then at a few places around their references."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(dim)
        self.attention = attention(dim, heads, levels, points)
        self.norm = nn.LayerNorm(dim)
        self.feed = FeedForward(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, place: Tensor, references: Tensor, levels: Levels) -> Tensor:
        """The queries after one layer."""
        query = x + place
        x = self.self_norm(x + self.dropout(self.self_attention(query, query, x, need_weights=False)[0]))
        seen = exact(self.attention, x, place, levels.places, references, levels)
        return self.feed(self.norm(x + self.dropout(seen)))


def exact(module: nn.Module, x: Tensor, place: Tensor, memory: Tensor, references: Tensor, levels: Levels) -> Tensor:
    """Deformable attention in float32 under any autocast, as sampling places need it."""
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        return module(
            hidden_states=x.float(),
            position_embeddings=place.float(),
            encoder_hidden_states=memory.float(),
            reference_points=references.float(),
            **levels.attend(),
        )[0]


class DeformableTransformer(nn.Module):
    """Encoder over the levels' places, decoder of a few queries with boxes refined layer by layer.

    Args:
        dim: channels.
        heads: attention heads.
        hidden: channels inside the feed-forward blocks.
        encoder_layers, decoder_layers: depths.
        levels: maps.
        points: places that a head looks at in each map.
        queries: learned places of queries; all have the sentence as content.
        dropout: on attention, residual branches and hidden channels.
        activation_checkpointing: recompute every layer in the backward pass.
    """

    def __init__(
        self,
        dim: int = 256,
        heads: int = 8,
        hidden: int = 2048,
        encoder_layers: int = 4,
        decoder_layers: int = 4,
        levels: int = 4,
        points: int = 4,
        queries: int = 5,
        dropout: float = 0.1,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = (dim, heads, levels, points, hidden, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(decoder_layers))
        self.level_embed = nn.Parameter(torch.empty(levels, dim).normal_())
        self.query_embed = nn.Embedding(queries, dim)
        self.reference = nn.Linear(dim, 2)
        self.boxes = nn.ModuleList(MLP(dim, dim, 4, 3) for _ in range(decoder_layers))
        self.activation_checkpointing = activation_checkpointing
        self._initialise()

    def _initialise(self) -> None:
        for layers in (self.encoder, self.decoder):
            for name, parameter in layers.named_parameters():
                if parameter.ndim > 1 and "sampling_offsets" not in name and "attention_weights" not in name:
                    nn.init.xavier_uniform_(parameter)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)
        for box in self.boxes:
            nn.init.zeros_(box.layers[-1].weight)
            nn.init.zeros_(box.layers[-1].bias)
        nn.init.constant_(self.boxes[0].layers[-1].bias[2:], -2.0)  # boxes begin small

    def levels(
        self, maps: list[Float[Tensor, "images dim _h _w"]], padding: list[Bool[Tensor, "videos _h _w"]]
    ) -> Levels:
        """The maps as one sequence; `padding`, True on it, holds for all images of a video, which follow each other."""
        codes = [
            place_code(mask, maps[0].shape[1]) + embed[:, None, None]
            for mask, embed in zip(padding, self.level_embed, strict=True)
        ]
        time = len(maps[0]) // len(padding[0])
        ratios = [
            torch.stack([(~mask[:, 0]).float().mean(1), (~mask[:, :, 0]).float().mean(1)], -1) for mask in padding
        ]
        return Levels(
            torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1),
            torch.cat([code.flatten(2).transpose(1, 2) for code in codes], 1).repeat_interleave(time, 0),
            ~torch.cat([mask.flatten(1) for mask in padding], 1).repeat_interleave(time, 0),
            [tuple(x.shape[-2:]) for x in maps],
            torch.stack(ratios, 1).repeat_interleave(time, 0),
        )

    def encode(self, levels: Levels) -> Levels:
        """The places after the encoder."""
        x, cells = levels.places, levels.cells()
        for layer in self.encoder:
            x = self.run(layer, x, levels, cells)
        return Levels(x, levels.code, levels.real, levels.sizes, levels.ratios)

    def decode(self, memory: Levels, sentence: Float[Tensor, "images dim"]) -> Decoded:
        """Queries and boxes after every decoder layer; references are cut from the graph between layers."""
        place = self.query_embed.weight.expand(len(sentence), -1, -1)
        x = sentence[:, None].expand_as(place)
        reference = start = self.reference(place).sigmoid()
        states, boxes = [], []
        for layer, box in zip(self.decoder, self.boxes, strict=True):
            ratios = torch.cat([memory.ratios] * (reference.shape[-1] // 2), -1)
            x = self.run(layer, x, place, reference[:, :, None] * ratios[:, None], memory)
            change = box(x)
            moved = F.pad(inverse_sigmoid(reference), (0, 4 - reference.shape[-1]))
            states.append(x)
            boxes.append((change + moved).sigmoid())
            reference = boxes[-1].detach()
        return Decoded(torch.stack(states), torch.stack(boxes), start)

    def run(self, layer: nn.Module, *inputs: object) -> Tensor:
        """One layer, recomputed in the backward pass where that is wanted."""
        if self.activation_checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def split_levels(memory: Levels) -> list[Float[Tensor, "images dim _h _w"]]:
    """The sequence of places as maps again."""
    counts = [height * width for height, width in memory.sizes]
    maps = memory.places.split(counts, 1)
    return [x.transpose(1, 2).unflatten(2, size) for x, size in zip(maps, memory.sizes, strict=True)]

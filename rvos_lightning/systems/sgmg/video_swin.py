"""Video Swin without temporal down-sampling: torchvision's 3-d Swin, tapped after every stage.

Liu et al., Video Swin Transformer, CVPR 2022 (arXiv 2106.13230); SgMg takes patches of 1 x 4 x 4.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video import SwinTransformer3d

from rvos_lightning.parts.starting import read_weights
from rvos_lightning.parts.weights import KeyMap, Rule, WeightsError, convert, load_official
from rvos_lightning.systems.sgmg.windows import WindowAttention

Taps = tuple[Float[Tensor, "images _c _h _w"], ...]
"""Stage outputs, fine to coarse, frames of all videos in one axis."""


@dataclass(frozen=True)
class SwinSize:
    """Sizes of a Video Swin.

    Attributes:
        width: channels of the first stage; each stage doubles them.
        depths: blocks per stage.
        heads: attention heads per stage.
        window: attention window in frames, rows and columns of tokens.
        patch: side of a patch in pixels; stage i then has a stride of `patch` times 2 to the i.
        drop_path: stochastic depth of the last block, linear from 0.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: tuple[int, int, int] = (8, 7, 7)
    patch: int = 4
    drop_path: float = 0.2


@dataclass(frozen=True)
class SwinStart:
    """Spread of the random weights that training from nothing starts with; the defaults are the published values.

    Published Swins are wide and start from ImageNet. A narrow one whose weights are as small hardly attends to anything
    but its own place for a long time, and no direction of motion is learned: position biases that differ from the start
    let heads look at neighbours in space and time.

    Attributes:
        linear: standard deviation of linear layers' weights times the square root of the layer's inputs; None: 0.02,
            whatever the width.
        position: standard deviation of relative position biases.
    """

    linear: float | None = None
    position: float = 0.02


SIZES = {
    "t": SwinSize(),
    "s": SwinSize(depths=(2, 2, 18, 2)),
    "b": SwinSize(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
}

LAYOUT = {  # inside the released checkpoints -> torchvision
    r"patch_embed\.(.*)": r"patch_embed.\1",
    **{
        pattern.format(i): name.format(i=2 * i, down=2 * i + 1)
        for i in range(4)
        for pattern, name in {
            r"layers\.{}\.blocks\.(\d+)\.mlp\.fc1\.(.*)": r"features.{i}.\1.mlp.0.\2",
            r"layers\.{}\.blocks\.(\d+)\.mlp\.fc2\.(.*)": r"features.{i}.\1.mlp.3.\2",
            r"layers\.{}\.blocks\.(\d+)\.((?:attn|norm)\d?\..*)": r"features.{i}.\1.\2",
            r"downsamples\.{}\.(.*)": r"features.{down}.\1",
        }.items()
    },
}
MERGED = {  # Microsoft's own release keeps a stage's down-sampling inside the stage
    rf"layers\.{i}\.downsample\.(.*)": rf"features.{2 * i + 1}.\1" for i in range(4)
}


class VideoSwin(nn.Module):
    """Taps of a Video Swin at strides 4, 8, 16 and 32, before each down-sampling and without a final norm.

    Args:
        variant: t, s or b.
        size: other sizes than the variant's.
        weights: Video Swin trained on Kinetics (Microsoft's file, or torchvision's), or `small/NAME`; a patch kernel
            over two frames is summed over time. None: random.
        activation_checkpointing: recompute every stage in the backward pass.
        start: spread of random weights.

    Raises:
        WeightsError: `weights` is missing or of another variant.
    """

    licence = "Video Swin, code and weights: Apache-2.0"

    def __init__(
        self,
        variant: Literal["t", "s", "b"] = "t",
        size: SwinSize | None = None,
        weights: Path | str | None = None,
        activation_checkpointing: bool = False,
        start: SwinStart = SwinStart(),
    ) -> None:
        super().__init__()
        self.size = size or SIZES[variant]
        self.check(self.size)
        built = SwinTransformer3d(
            patch_size=[1, self.size.patch, self.size.patch],
            embed_dim=self.size.width,
            depths=list(self.size.depths),
            num_heads=list(self.size.heads),
            window_size=list(self.size.window),
            stochastic_depth_prob=self.size.drop_path,
            num_classes=1,
            block=window_block,
        )
        self.patch_embed, self.features = built.patch_embed, built.features
        self.activation_checkpointing = activation_checkpointing
        stages = range(len(self.size.depths))
        self.channels = tuple(self.size.width * 2**i for i in stages)
        self.strides = tuple(self.size.patch * 2**i for i in stages)
        self.spread(start)
        if weights is not None:
            read_weights(self, weights, self.load_weights)

    def spread(self, start: SwinStart) -> None:
        """Draw random weights anew where `start` wants others than torchvision's."""
        for name, parameter in self.features.named_parameters():
            if name.endswith("relative_position_bias_table") and start.position != SwinStart.position:
                nn.init.normal_(parameter, std=start.position)
        for module in self.features.modules():
            if isinstance(module, nn.Linear) and start.linear is not None:
                nn.init.normal_(module.weight, std=start.linear / module.in_features**0.5)

    def load_weights(self, weights: Path | str) -> None:
        """Read Kinetics weights; see the class."""
        self.load_state_dict(from_kinetics(load_official(weights), self.state_dict(), weights))

    @staticmethod
    def check(size: SwinSize) -> None:
        """Refuse sizes that no Swin has.

        Raises:
            ValueError: names the field.
        """
        if len(size.depths) != 4 or len(size.heads) != 4:
            raise ValueError(f"VideoSwin size: depths {size.depths} and heads {size.heads} must both name 4 stages")
        if min(*size.window, *size.depths, *size.heads, size.width, size.patch) < 1:
            raise ValueError("VideoSwin size: window, depths, heads, width and patch must be at least 1")
        odd = next((i for i, heads in enumerate(size.heads) if size.width * 2**i % heads), None)
        if odd is not None:
            raise ValueError(
                f"VideoSwin size: stage {odd} has {size.width * 2**odd} channels, no multiple of its "
                f"{size.heads[odd]} heads"
            )

    def forward(self, frames: Float[Tensor, "video time 3 height width"]) -> Taps:
        """Stage outputs of normalised frames, flattened over videos and time."""
        x = self.patch_embed(frames.transpose(1, 2))
        taps = []
        for index, layer in enumerate(self.features):
            if self.activation_checkpointing and self.training:
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
            if index % 2 == 0:
                taps.append(x.flatten(0, 1).permute(0, 3, 1, 2))
        return tuple(taps)


def window_block(*sizes: Any, attn_layer: object = None, **more: Any) -> SwinTransformerBlock:
    """torchvision's block with our attention, whichever it asks for: it names its own in every call."""
    return SwinTransformerBlock(*sizes, attn_layer=WindowAttention, **more)


def from_kinetics(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], path: Path | str = "weights"
) -> dict[str, Tensor]:
    """Kinetics weights for patches of one frame: renamed, heads dropped, the patch kernel summed over time.

    Raises:
        WeightsError: keys or shapes do not fit.
    """
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    if any(key.startswith("features.") for key in state):
        rules = [Rule(r"((?:patch_embed|features)\..*)", r"\1")]
    else:
        rules = [Rule(pattern, name) for pattern, name in {**LAYOUT, **MERGED}.items()]
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None:
        raise WeightsError(f"{path}: no Video Swin (patch_embed.proj.weight is missing); give a Kinetics checkpoint")
    if kernel.ndim == 5 and kernel.shape[2] > 1:
        state["patch_embed.proj.weight"] = kernel.sum(2, keepdim=True)
    dropped = (r"(cls_)?head\..*", r"norm\..*", r".*relative_position_index")
    kept = (r".*relative_position_index",)
    ours = convert(state, KeyMap(rules, drop=dropped, missing=kept), target)
    return {**{key: value for key, value in target.items() if re.fullmatch(kept[0], key)}, **ours}

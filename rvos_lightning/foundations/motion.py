"""What SAMWISE's adapters see before they read, as a backbone: how selective attention learns directions of motion."""

from jaxtyping import Float
from torch import Tensor, nn

from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.weights import freeze
from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter
from rvos_lightning.systems.sgmg.video_swin import Taps


class AdapterTaps(nn.Module):
    """Pixels of every adapter after its selective attention, over normalised frames; that attention alone is trained.

    Adapters are looked at one by one: none changes what a later one sees.

    Args:
        segmenter: whose trunk they stand in.
        adapter: whose selective attention shall learn.
    """

    def __init__(self, segmenter: Sam2, adapter: CMTAdapter) -> None:
        super().__init__()
        self.segmenter, self.adapter = segmenter, adapter.fit_to(segmenter)
        self.channels = (adapter.inner[0],) * len(adapter.stages)
        self.strides = tuple(segmenter.image_size // segmenter.stage_sides[stage] for stage in adapter.stages)
        freeze(segmenter)
        freeze(adapter)
        for layer in adapter.adapters.values():
            layer.selective.requires_grad_(True)

    def forward(self, frames: Float[Tensor, "video time 3 height width"]) -> Taps:
        """One map an adapter, fine to coarse."""
        stages = self.segmenter.run_trunk(frames.flatten(0, 1))
        layers = [(stages[stage], self.adapter.adapters[str(stage)]) for stage in self.adapter.stages]
        time = frames.shape[1]
        return tuple(layer.mix(layer.narrow(maps.unflatten(0, (-1, time)))).flatten(0, 1) for maps, layer in layers)

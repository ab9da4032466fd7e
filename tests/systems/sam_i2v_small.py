"""A small SAM-I2V for tests."""

import torch

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.parts.prompters.user import UserPrompter
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.systems.sam_i2v.prompt_memory import PromptMemory
from rvos_lightning.systems.sam_i2v.temporal_integrator import TemporalIntegrator


def segmenter() -> Sam:
    """Random; the small variant starts sure that the object is there: an absent one's masks would prove nothing."""
    torch.manual_seed(0)
    return Sam("small", 64, occlusion=True)


def small(**memory: object) -> PromptedSegmenter:
    """In evaluation mode; keyword arguments go to the memory."""
    adapter = TemporalIntegrator(temporal_dim=8)
    memory = PromptMemory(memory_dim=32, hidden=32, layers=1, dropout=0.0, **{"fill_holes": 0, **memory})
    return PromptedSegmenter(segmenter(), adapter, UserPrompter(), memory).eval()

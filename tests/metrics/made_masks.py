"""A small made-up evaluation: masks, targets and metas of several videos."""

from dataclasses import replace

import torch

from rvos_lightning.core.types import ClipMeta, Facts, SegmentedWindow, Targets


def video(name, items, time, size=(24, 40), seed=0, source="made", hidden=(), no_target=(), **groups):
    """Masks, targets and metas of one video; frames in `hidden` are not annotated."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    centre = torch.rand(2, items, time, 2, generator=generator) * torch.tensor(size)
    radius = 3 + 6 * torch.rand(2, items, time, generator=generator)
    radius[:, :, 4::5] = 0  # nothing there on every fifth frame
    distance = (rows - centre[..., 0, None, None]) ** 2 + (columns - centre[..., 1, None, None]) ** 2
    truth, predicted = distance < radius[..., None, None] ** 2
    annotated = torch.ones(items, time, dtype=torch.bool)
    annotated[:, list(hidden)] = False
    metas = []
    for i in range(items):
        facts = Facts(**{key: value[i] for key, value in groups.items() if key != "subsets"})
        subsets = tuple(groups["subsets"][i]) if "subsets" in groups else ("even" if i % 2 == 0 else "odd",)
        frames, every = tuple(f"{t:05d}" for t in range(time)), tuple(range(time))
        metas.append(ClipMeta(name, str(i), frames, size, size, every, source, subsets, facts, i in no_target))
    return SegmentedWindow(predicted, Targets(truth, annotated), metas)


def cut(window, start, stop):
    """Some frames of a video."""
    own = [replace(m, frames=m.frames[start:stop], positions=m.positions[start:stop]) for m in window.meta]
    return SegmentedWindow(window.masks[:, start:stop], window.targets.window(start, stop), own)


def chosen(window, items):
    """Some items of a video."""
    targets = Targets(window.targets.masks[items], window.targets.annotated[items])
    return SegmentedWindow(window.masks[items], targets, [window.meta[i] for i in items])

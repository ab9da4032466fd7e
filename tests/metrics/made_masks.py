"""A small made-up evaluation: masks, targets and metas of several videos."""

import torch

from rvos_lightning.core.types import ClipMeta, Targets


def video(name, items, time, size=(24, 40), seed=0, source="made", hidden=(), **groups):
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
        group = {key: value[i] for key, value in groups.items() if key != "subsets"}
        subsets = tuple(groups["subsets"][i]) if "subsets" in groups else ("even" if i % 2 == 0 else "odd",)
        frames = tuple(f"{t:05d}" for t in range(time))
        metas.append(ClipMeta(name, str(i), frames, size, size, tuple(range(time)), source, subsets, group))
    return predicted, Targets(truth, annotated), metas


def cut(part, start, stop):
    """A window of a video."""
    masks, targets, metas = part
    own = [
        ClipMeta(
            m.video, m.item, m.frames[start:stop], m.size, m.size, m.positions[start:stop], m.source, m.subsets, m.group
        )
        for m in metas
    ]
    return masks[:, start:stop], targets.window(start, stop), own


def chosen(part, items):
    """Some items of a video."""
    masks, targets, metas = part
    return masks[items], Targets(targets.masks[items], targets.annotated[items]), [metas[i] for i in items]

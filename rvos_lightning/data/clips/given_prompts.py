"""Clicks, boxes and masks that somebody gives for their own videos, in a JSON file or on the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rvos_lightning.core.types import ClipMeta, Targets, User, UserPrompt
from rvos_lightning.data.clips.mask_prompts import object_in
from rvos_lightning.data.clips.users import UserFactory
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.annotation_files import read_json

KINDS = ("clicks", "box", "mask")
KEYS = {"object", "frame", "video", "labels", *KINDS}
EXAMPLE = '[{"object": "dog", "frame": 0, "clicks": [[120, 80]], "labels": [1]}]'


class GivenPrompts(UserFactory):
    """A list of entries, each one act on one object in one frame:

        {"object": "dog", "frame": 0, "clicks": [[120, 80], [40, 30]], "labels": [1, 0]}
        {"object": "ball", "frame": 0, "box": [10, 20, 60, 70]}
        {"object": "cup", "frame": 5, "mask": "cup.png"}

    `frame` counts from 0; x, y in pixels of the video; labels 1 on and 0 off the object (all 1 if left out); box: left,
    top, right, bottom; mask: an image, nonzero on the object
    (see `object_in`), sought beside the JSON file. `video` (its id) is needed
    only where several videos are given. An object starts with what is given on its first frame; clicks on later frames
    correct the mask tracked there; boxes and masks on later frames start it anew.

    Args:
        source: the file, or its content.

    Raises:
        DataError: names the entry and what is wrong with it.
    """

    needs_targets = False

    def __init__(self, source: str | list[dict[str, Any]]) -> None:
        if isinstance(source, str) and source.lstrip().startswith(("[", "{")):
            shown = source if len(source) <= 60 else f"{source[:57]}..."
            raise DataError(f"data.prompts: {shown} is no list of entries, such as {EXAMPLE}")
        self.name = source if isinstance(source, str) else "data.prompts"
        self.folder = Path(source).parent if isinstance(source, str) else Path()
        self.entries = _read(Path(source)) if isinstance(source, str) else source
        if not isinstance(self.entries, list) or not self.entries:
            raise DataError(f"{self.name}: expected a list of entries, such as {EXAMPLE}")
        for number, entry in enumerate(self.entries):
            if problem := _problem(entry):
                raise DataError(f"{self.name}: entry {number}: {problem}")

    def objects(self, video: str) -> list[str]:
        """Names of a video's objects, in the order of their first entries."""
        return list(dict.fromkeys(str(entry["object"]) for _, entry in self.of(video)))

    def of(self, video: str) -> list[tuple[int, dict[str, Any]]]:
        """Number and content of the entries for a video."""
        return [(n, e) for n, e in enumerate(self.entries) if e.get("video", video) == video]

    def check(self, videos: Mapping[str, tuple[int, tuple[int, int]]]) -> None:
        """Compare with the videos there are.

        Args:
            videos: id -> number of frames, (height, width).

        Raises:
            DataError: an entry lies outside its video, or names none.
        """
        for number, entry in enumerate(self.entries):
            where = f"{self.name}: entry {number}"
            if entry.get("video") not in (None, *videos) or ("video" not in entry and len(videos) > 1):
                raise DataError(f"{where}: 'video' must be one of {', '.join(videos)}")
            video = entry.get("video", next(iter(videos)))
            frames, (height, width) = videos[video]
            if entry["frame"] >= frames:
                raise DataError(f"{where}: frame {entry['frame']}, but {video} has frames 0 to {frames - 1}")
            for x, y in _points(entry):
                if not (0 <= x <= width and 0 <= y <= height):
                    raise DataError(f"{where}: ({x:g}, {y:g}) lies outside {video}, {width} x {height} pixels")
            if "mask" in entry and (mask := self.mask(entry, where)).shape != (height, width):
                found = f"{mask.shape[1]} x {mask.shape[0]}"
                raise DataError(f"{where}: {entry['mask']} has {found} pixels, {video} {width} x {height}")

    def mask(self, entry: Mapping[str, Any], where: str) -> Bool[Tensor, "h w"]:
        """The mask picture of an entry.

        Raises:
            DataError: it cannot be read, or does not say which pixels are meant.
        """
        path = self.folder / entry["mask"]
        try:
            return object_in(path.read_bytes(), f"{where}: mask {path}")
        except OSError as error:
            raise DataError(f"{where}: mask {path} cannot be read ({error.strerror})") from error

    def __call__(self, targets: Targets | None, meta: list[ClipMeta], seed: int, batch_seed: int | None = None) -> User:
        """The user of these items."""
        return GivingUser(self, meta)


class GivingUser(User):
    """Says what was written down, each thing once."""

    def __init__(self, given: GivenPrompts, meta: Sequence[ClipMeta]) -> None:
        self.starts: list[list[UserPrompt]] = []
        self.later: list[dict[int, list[UserPrompt]]] = []
        for one in meta:
            own = [(n, e) for n, e in given.of(one.video) if str(e["object"]) == one.item]
            first = min(e["frame"] for _, e in own)
            self.starts.append([])
            self.later.append({})
            # A mask or box goes before the clicks that correct it.
            for number, entry in sorted(own, key=lambda pair: ("clicks" in pair[1], pair[0])):
                prompt = self._prompt(given, entry, number, one)
                corrects = entry["frame"] != first or any(p.mask is not None for p in self.starts[-1])
                if "clicks" in entry and corrects:
                    self.later[-1].setdefault(entry["frame"], []).append(prompt)
                else:
                    self.starts[-1].append(prompt)

    def add(self, given: GivenPrompts, number: int, meta: ClipMeta, item: int) -> None:
        """Take one more correction, entry `number`, for a frame that is still to come."""
        entry = given.entries[number]
        self.later[item].setdefault(entry["frame"], []).append(self._prompt(given, entry, number, meta))

    @staticmethod
    def _prompt(given: GivenPrompts, entry: Mapping[str, Any], number: int, meta: ClipMeta) -> UserPrompt:
        if "mask" in entry:
            return UserPrompt(entry["frame"], mask=given.mask(entry, f"{given.name}: entry {number}"))
        height, width = meta.original_size
        points = torch.tensor([[x / width, y / height] for x, y in _points(entry)])
        labels = [2, 3] if "box" in entry else entry.get("labels", [1] * len(points))
        return UserPrompt(entry["frame"], points, torch.tensor(labels))

    def first_prompt(self, item: int) -> Sequence[UserPrompt]:
        """What is given on the object's first frame, and every later box or mask."""
        return self.starts[item]

    def correct(self, item: int, frame: int, mask: Float[Tensor, "h w"]) -> UserPrompt | None:
        """The next correction of this frame."""
        waiting = self.later[item].get(frame, [])
        return waiting.pop(0) if waiting else None


def _read(path: Path) -> Any:
    path = path.expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: cannot be read ({what}); data.prompts is a JSON file or a list, e.g. {EXAMPLE}")
    return read_json(path)


def _points(entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Clicks, or both corners of a box."""
    if "box" in entry:
        left, top, right, bottom = entry["box"]
        return [(left, top), (right, bottom)]
    return [(x, y) for x, y in entry.get("clicks", [])]


def _problem(entry: Any) -> str | None:
    """What is wrong with an entry, in words; None if nothing."""
    if not isinstance(entry, Mapping):
        return f"expected an object with {', '.join(sorted(KEYS))}, got {entry!r}"
    if unknown := sorted(set(entry) - KEYS):
        return f"unknown key {unknown[0]!r}; known: {', '.join(sorted(KEYS))}"
    if "object" not in entry:
        return "no 'object': give each thing to segment a name"
    if type(entry["object"]) not in (str, int) or entry["object"] == "":
        return f"'object' must be a name or a number, not {entry['object']!r}"
    frame = entry.get("frame")
    if not isinstance(frame, int) or isinstance(frame, bool) or frame < 0:
        return f"'frame' must be a number from 0, not {frame!r}"
    if sum(kind in entry for kind in KINDS) != 1:
        return f"give exactly one of {', '.join(KINDS)}"
    if "clicks" in entry:
        return _clicks_problem(entry["clicks"], entry.get("labels"))
    if "labels" in entry:
        return "'labels' belong to clicks"
    if "box" in entry:
        box = entry["box"]
        if not _numbers(box, 4) or not (box[0] < box[2] and box[1] < box[3]):
            return f"'box' must be [left, top, right, bottom] with left < right and top < bottom, not {box!r}"
    elif not isinstance(entry["mask"], str) or not entry["mask"].strip() or "\0" in entry["mask"]:
        return f"'mask' must be the name of an image, not {entry['mask']!r}"
    return None


def _clicks_problem(clicks: Any, labels: Any) -> str | None:
    if not isinstance(clicks, list) or not clicks or not all(_numbers(click, 2) for click in clicks):
        return f"'clicks' must be a list of [x, y], not {clicks!r}"
    if labels is not None and (
        not isinstance(labels, list) or any(type(label) is not int or label not in (0, 1) for label in labels)
    ):
        return f"'labels' must be a list of 1 (on the object) and 0 (off it), not {labels!r}"
    if labels is not None and len(labels) != len(clicks):
        return f"{len(clicks)} clicks but {len(labels)} labels"
    return None


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == count and all(type(v) in (int, float) for v in value)

"""A trained system as a Python object: load it, give it pictures, get masks as arrays, window by window."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rvos_lightning.core.inference import segmented
from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Clip, ClipMeta, State
from rvos_lightning.data.clips.clips import Framing
from rvos_lightning.data.clips.given_prompts import GivenPrompts, GivingUser
from rvos_lightning.data.clips.resizing import fit_size, resize_frames
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.video_files import Footage, open_footage
from rvos_lightning.parts.starting import starting_from

Prompts = list[dict[str, Any]]

SECTIONS = ("model", "data", "trainer")
"""Parts of a configuration that say what a system is; the rest says what was done with it."""


@dataclass(frozen=True)
class Masks:
    """What a model says of one window of a video.

    Attributes:
        masks: True on the object, at the source's size; items in the order of the expressions or prompted objects.
        items: the expressions, or the names of the prompted objects.
        positions: which frames these are, counted from 0.
        frames: names of these frames (file stems; numbers where frames have no names).
        presence: the network's own probability that the item is there at all; None where it does not say.
    """

    masks: Bool[np.ndarray, "items frames height width"]
    items: tuple[str, ...]
    positions: tuple[int, ...]
    frames: tuple[str, ...]
    presence: Float[np.ndarray, "items frames"] | None = None


class Stream(Iterator[Masks]):
    """Masks of frames that come one after the other, from a file, a camera or a socket, in bounded memory.

    Args:
        model: segments.
        frames: RGB pictures, uint8 `[height, width, 3]`, all of one size.
        expressions: what to look for.
        prompts: instead of words, clicks, boxes and masks; see `GivenPrompts`.
        window: frames a step; smaller answers sooner, larger is faster.
        names: frame names; None: numbers.
        context: the frames a network that looks ahead is shown; None: the first window stands for the whole.

    Raises:
        DataError: neither or both of expressions and prompts, no frames, or frames that are no pictures of one size.
    """

    def __init__(
        self,
        model: "Model",
        frames: Iterable[np.ndarray],
        expressions: Sequence[str] | str | None,
        prompts: Prompts | None,
        window: int,
        names: Sequence[str] | None = None,
        context: Tensor | None = None,
    ) -> None:
        texts = [expressions] if isinstance(expressions, str) else list(expressions or [])
        if bool(texts) == bool(prompts):
            raise DataError("give either expressions (sentences) or prompts (clicks, boxes, masks)")
        if any(not text.strip() for text in texts):
            raise DataError("an expression is empty: say what to look for, e.g. 'the dog that jumps'")
        if window < 1:
            raise DataError(f"window is {window}; give at least 1 frame")
        self.model, self.window, self.names, self.context = model, window, names, context
        self.expressions, self.given = texts or None, None if prompts is None else GivenPrompts(list(prompts))
        self.items = tuple(texts or self.given.objects(""))
        self._frames, self._start = iter(frames), 0
        self._state: State | None = None
        self._user: GivingUser | None = None
        self._meta: list[ClipMeta] = []
        self._shape: tuple[int, ...] | None = None  # of the first picture

    def __next__(self) -> Masks:
        """Segment the next window; the last may be shorter."""
        chunk = [np.asarray(frame) for frame in islice(self._frames, self.window)]
        if not chunk:
            if not self._start:
                raise DataError("no frames came: is the source empty?")
            raise StopIteration
        return self._segment(self._picture(chunk))

    def correct(self, prompt: dict[str, Any]) -> None:
        """Clicks on a frame that is still to come.

        Args:
            prompt: as in `GivenPrompts`, e.g. `{"object": "dog", "frame": 30, "clicks": [[9, 7]], "labels": [0]}`.

        Raises:
            DataError: the frame was segmented already, the object is not being followed, or the entry is malformed.
        """
        if self.given is None or prompt.get("object") not in self.items:
            raise DataError(f"corrections need one of the prompted objects, {', '.join(self.items)}, not {prompt!r}")
        entry = GivenPrompts([prompt]).entries[0]
        if "clicks" not in entry:
            raise DataError("a correction is made of clicks; start another stream for boxes and masks")
        if entry["frame"] < self._start:
            raise DataError(f"frame {entry['frame']} was segmented already; frames from {self._start} on are open")
        self.given.entries.append(entry)
        if self._user is not None:
            item = self.items.index(str(entry["object"]))
            self._user.add(self.given, len(self.given.entries) - 1, self._meta[item], item)

    def _picture(self, chunk: list[np.ndarray]) -> Tensor:
        first = self._shape = self._shape or chunk[0].shape
        for frame in chunk:
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != first:
                raise DataError(
                    f"frames must be RGB pictures of one size, uint8 [height, width, 3]; got {frame.dtype} "
                    f"{list(frame.shape)} after {list(first)}"
                )
        return torch.from_numpy(np.stack(chunk)).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def _segment(self, pixels: Tensor) -> Masks:
        clip = self._clip(pixels)
        part = segmented(self.model.network(clip, self._state), clip, None)
        self._state = part.prediction.state
        self._start += len(pixels)
        presence = part.prediction.presence_logits
        return Masks(
            part.masks.cpu().numpy(),
            self.items,
            clip.meta[0].positions,
            clip.meta[0].frames,
            None if presence is None else presence.float().sigmoid().cpu().numpy(),
        )

    def _clip(self, pixels: Tensor) -> Clip:
        original = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        framing = self.model.framing
        size = fit_size(original, framing.size, framing.resize)
        positions = tuple(range(self._start, self._start + len(pixels)))
        names = tuple(str(p) if self.names is None else self.names[p] for p in positions)
        meta = self._meta = [ClipMeta("", item, names, size, original, positions) for item in self.items]
        if self.given is not None and self._user is None:
            self._user = GivingUser(self.given, meta)
        if self.context is None and framing.context_frames is not None:
            few = framing.context_positions(len(pixels))
            self.context = pixels[few]
        device = self.model.device
        frames = resize_frames(pixels, size).to(device).float()[None] / 255
        context = None if self.context is None else resize_frames(self.context, size).to(device).float()[None] / 255
        video = torch.zeros(len(self.items), dtype=torch.long, device=device)
        return Clip(frames, video, self.expressions, meta, self._user, context)


class Model:
    """A network in evaluation mode and how its pictures are prepared; made by `load`.

    Args:
        network: segments clips.
        framing: the size its frames have, and its context frames.
        window: frames a step.
    """

    def __init__(self, network: Network, framing: Framing, window: int = 8) -> None:
        self.network, self.framing, self.window = network.eval(), framing, window

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> "Model":
        """Move the network; returns itself."""
        self.network.to(device)
        return self

    def segment(
        self,
        source: str | Path | np.ndarray,
        expressions: Sequence[str] | str | None = None,
        prompts: Prompts | None = None,
        window: int | None = None,
    ) -> Stream:
        """Masks of one video, window by window, however long it is.

        Args:
            source: a film, a folder or glob of pictures, one picture, or RGB frames, uint8 `[time, height, width, 3]`.
            expressions: sentences that say what to look for.
            prompts: instead of sentences, clicks, boxes and masks; see `GivenPrompts`.
            window: frames a step; None: as configured.

        Returns:
            An iterator over `Masks`; `numpy.concatenate([w.masks for w in ...], 1)` has all.

        Raises:
            DataError: the source cannot be read, or nothing is said to look for.
        """
        window = window or self.window
        if isinstance(source, np.ndarray):
            context = None
            if few := self.framing.context_positions(len(source)):
                context = torch.from_numpy(source[few]).permute(0, 3, 1, 2)
            return Stream(self, iter(source), expressions, prompts, window, context=context)
        footage = open_footage(source)
        if len(footage) > 1:
            raise DataError(f"{source}: {len(footage)} videos; segment them one by one")
        film = footage[0]
        if prompts is not None:
            GivenPrompts(list(prompts)).check({film.id: (len(film.frames), film.size)})
        few = self.framing.context_positions(len(film.frames))
        context = film.read(few) if few else None
        return Stream(self, _pictures(film, window), expressions, prompts, window, film.frames, context)

    def stream(
        self,
        frames: Iterable[np.ndarray],
        expressions: Sequence[str] | str | None = None,
        prompts: Prompts | None = None,
        window: int = 1,
    ) -> Stream:
        """As `segment`, for frames whose end nobody knows: a camera, a socket, a generator.

        Networks that look at frames of the whole video beforehand are shown the first window's instead.

        Args:
            frames: RGB pictures, uint8 `[height, width, 3]`, all of one size.
            expressions: sentences that say what to look for.
            prompts: instead of sentences, clicks, boxes and masks; `Stream.correct` adds clicks on the way.
            window: frames a step.
        """
        return Stream(self, frames, expressions, prompts, window)


def load(
    source: str | Path,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    trust: bool = False,
) -> Model:
    """A trained system as an object.

    Args:
        source: a run's folder (its configuration with its best weights), a recipe's YAML file, or a folder made by
            `rvos push`, or the name of one that was pulled.
        weights: for a recipe: a checkpoint or .safetensors of ours; None: the files that the recipe itself names.
        overrides: more words as on the command line, e.g. `["--model.window", "4"]`.
        device: where the network lives.
        trust: a pushed configuration may name classes that are not of this package.

    Raises:
        FileNotFoundError: `source` is neither; names what was looked for.
        ValueError: the configuration or the weights do not fit; says what to change.
    """
    import yaml

    from rvos_lightning.run import hub_folder
    from rvos_lightning.run.config import open_config
    from rvos_lightning.run.words import read_yaml

    source = hub_folder.find(source) or Path(source)
    config = source / "config.yaml" if source.is_dir() else source
    if not config.is_file():
        raise FileNotFoundError(
            f"{config}: no such file; give the folder of a run, the name of a pulled system (rvos pull), or a recipe "
            "such as configs/tiny.yaml"
        )
    if hub_folder.is_hub_folder(source):
        hub_folder.check(source, trust)
        weights = weights or source / hub_folder.WEIGHTS
    elif source.is_dir() and weights is None:
        weights = best_weights(source)
    said = {key: value for key, value in read_yaml(config).items() if key in SECTIONS}
    words = ["-c", yaml.safe_dump(said), *overrides]
    if weights is not None:
        words += ["--model.weights", str(weights)]
    cli = open_config(words)
    with starting_from(cli.config.model.weights):
        made = cli.parser.instantiate_classes(cli.config.clone())
    return Model(made.model.network, made.data.eval_framing, made.model.window).to(device)


def best_weights(run: Path) -> Path:
    """A run's best checkpoint, or its last where none is called best.

    Raises:
        FileNotFoundError: the run has none.
    """
    for name in ("best", "last"):
        if (found := run / "checkpoints" / f"{name}.ckpt").exists():
            return found
    raise FileNotFoundError(f"{run / 'checkpoints'}: neither best.ckpt nor last.ckpt; has this run trained?")


def _pictures(film: Footage, window: int) -> Iterator[np.ndarray]:
    for start in range(0, len(film.frames), window):
        stop = min(start + window, len(film.frames))
        yield from film.read(range(start, stop)).permute(0, 2, 3, 1).numpy()

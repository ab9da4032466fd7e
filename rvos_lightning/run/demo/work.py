"""What the page asks for, done by the code of `rvos predict`: the same masks, film, sheet and record."""

import json
import shlex
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch
from lightning.pytorch import Trainer

from rvos_lightning.core.module import RVOSModule
from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import SegmentedWindow
from rvos_lightning.data.lightning_module import VideoDataModule
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.video_files import VideoFiles
from rvos_lightning.parts.prompters.user import UserPrompter
from rvos_lightning.run.model import Model

MOST_SENTENCES = 16


class Cancelled(Exception):
    """The user has changed their mind."""


@dataclass(frozen=True)
class Wish:
    """What somebody wants to see.

    Attributes:
        source: a film, a folder of pictures, or one picture.
        sentences: what to look for, in words.
        prompts: or what was pointed at, as in `GivenPrompts`.
    """

    source: str
    sentences: tuple[str, ...] = ()
    prompts: tuple[dict[str, Any], ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Of `VideoFiles`.

        Raises:
            DataError: nothing to look at, or nothing to look for.
        """
        if not self.source:
            raise DataError("choose or upload a film or a picture first")
        if len(self.sentences) > MOST_SENTENCES:
            raise DataError(f"{len(self.sentences)} sentences; at most {MOST_SENTENCES} at once")
        if not self.sentences and not self.prompts:
            raise DataError("say what to look for: a sentence a line, or clicks and boxes on a frame")
        wanted = {"expressions": list(self.sentences)} if self.sentences else {"prompts": list(self.prompts)}
        return {"path": self.source, **wanted}

    def command(self, system: Sequence[str], uploads: Path) -> str:
        """The command line that does the same, with an upload's own name in place of where it lies for now."""
        words = ["rvos", "predict", *system, "--data", "VideoFiles"]
        for key, value in self.arguments().items():
            if key == "path" and uploads in Path(value).parents:
                value = Path(value).name
            words += [f"--data.{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
        return shlex.join(words)


@dataclass
class Progress:
    """How far it is; `folder` when it is done."""

    frames: int
    total: int
    folder: Path | None = None
    start: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        passed = time.monotonic() - self.start
        rate = self.frames / passed if passed > 0 else 0.0
        left = f" · {(self.total - self.frames) / rate:.0f} s left" if rate and self.frames < self.total else ""
        return f"{self.frames} of {self.total} frames · {rate:.1f} frames/s{left}"


class _Watcher(MaskSink):
    """Counts frames, and stops between two windows when told to."""

    def __init__(self, told: "SimpleQueue[Any]", cancel: Event, total: int) -> None:
        self.told, self.cancel, self.progress = told, cancel, Progress(0, total)

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Tell.

        Raises:
            Cancelled: as asked.
        """
        if self.cancel.is_set():
            raise Cancelled
        self.progress.frames += 0 if window.clip is None else window.clip.time
        self.told.put(self.progress)


class Desk:
    """A loaded system that works for one user at a time.

    Args:
        model: segments.
        system: the words that name it on a command line.
        root: where results go, in folders of their own.
        most_frames: longer films are refused.
    """

    def __init__(self, model: Model, system: Sequence[str], root: Path, most_frames: int) -> None:
        self.model, self.system, self.root, self.most_frames = model, list(system), root, most_frames
        self.device = model.device  # Lightning leaves a network on the CPU when it is done with it
        self.module = RVOSModule(model.network, metrics={}, window=model.window)
        self.clicks = any(isinstance(part, UserPrompter) for part in model.network.modules())

    def segment(self, wish: Wish, cancel: Event) -> Iterator[Progress]:
        """Do it in a thread of its own, telling how far it is; ends when `cancel` is set.

        Raises:
            DataError: nothing asked for, or too much.
            Cancelled: by `cancel`.
        """
        data = self._data(wish)
        told: SimpleQueue[Any] = SimpleQueue()
        folder = Path(tempfile.mkdtemp(prefix="result_", dir=self.root))
        thread = Thread(target=self._run, args=(data, folder, told, cancel), daemon=True)
        thread.start()
        try:
            while not isinstance(said := told.get(), Path):
                if isinstance(said, BaseException):
                    shutil.rmtree(folder, ignore_errors=True)
                    raise said
                yield said
            yield Progress(1, 1, said)
        finally:
            cancel.set()  # the page was closed: nobody waits for the rest
            thread.join()

    def _data(self, wish: Wish) -> VideoFiles:
        framing = self.model.framing
        asked = wish.arguments()
        data = VideoFiles(
            **asked,
            size=framing.size,
            resize=framing.resize,
            context_frames=framing.context_frames,
            context=framing.context,
        )
        reader = data.read("predict")
        assert reader is not None
        for video in reader.videos:
            if len(video.frames) > self.most_frames:
                raise DataError(f"{len(video.frames)} frames; this page takes {self.most_frames} (--frames)")
        return data

    def _run(self, data: VideoFiles, folder: Path, told: "SimpleQueue[Any]", cancel: Event) -> None:
        try:
            reader = data.read("predict")
            total = sum(len(video.frames) for video in reader.videos)  # type: ignore[union-attr]
            pictures = import_module("callbacks").Overlay()
            trainer = Trainer(
                **on(self.device),
                logger=False,
                callbacks=[pictures, _Watcher(told, cancel, total)],
                default_root_dir=folder,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                use_distributed_sampler=False,
            )
            trainer.predict(self.module, VideoDataModule(data), return_predictions=False)
            told.put(folder / "predictions" / reader.videos[0].id)  # type: ignore[union-attr]
        except BaseException as error:  # whatever it is, the page has to hear of it
            told.put(error)


def on(device: torch.device) -> dict[str, Any]:
    """A trainer's arguments for one device."""
    if device.type == "cuda":
        return {"accelerator": "gpu", "devices": [device.index or 0]}
    return {"accelerator": "cpu", "devices": 1}


def zipped(folder: Path) -> Path:
    """Masks and record of a result as one file."""
    made = folder.with_name(f"{folder.name}_masks.zip")
    if not made.exists():
        with zipfile.ZipFile(made, "w") as archive:  # PNG files do not get smaller
            archive.write(folder / "record.json", "record.json")
            for mask in sorted((folder / "masks").iterdir()):
                archive.write(mask, f"masks/{mask.name}")
    return made

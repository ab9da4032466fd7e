"""The page itself: what is on it, and what happens when something is clicked."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import gradio as gr

from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.video_files import IMAGES, VIDEOS
from rvos_lightning.run.demo import view
from rvos_lightning.run.demo.work import Cancelled, Desk, Wish, zipped

CSS = """
.gradio-container {max-width: 1500px !important}
#frame img {cursor: crosshair}
#status progress {width: 100%; height: 1.1em}
"""
HELP = (
    "**Words:** one sentence a line; each gets a colour. ",
    "**Pointing:** choose a frame, click on the object (or off it, or two corners of a box), press *Segment*. Then go "
    "to a frame where the mask is wrong, click again, and press *Segment* once more. ",
)
Session = dict[str, Any]


def new_session() -> Session:
    """What is remembered of one visitor: plain values, as gradio copies them."""
    return {"source": "", "prompts": [], "corner": None, "result": None, "own": None, "job": None}


class Page:
    """The page of one loaded system.

    Args:
        desk: does the work.
        films: a folder to choose from; None: uploads only.
        minutes: until what a visitor left is deleted.
    """

    def __init__(self, desk: Desk, films: Path | None, minutes: int):
        self.desk, self.films = desk, view.offered(films)
        self.jobs: dict[str, Event] = {}
        self.theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        self.css = CSS
        seconds = 60 * minutes
        with gr.Blocks(title="rvos_lightning", analytics_enabled=False, delete_cache=(300, seconds)) as self.blocks:
            self.session = gr.State(new_session(), time_to_live=seconds, delete_callback=self.forget)
            self._lay_out()
            self._connect()

    def _lay_out(self) -> None:
        clicks = self.desk.clicks
        gr.Markdown(f"### rvos_lightning · `{' '.join(self.desk.system)}`\n{HELP[clicks]}")
        with gr.Row():
            with gr.Column():
                self.choice = gr.Dropdown(
                    self.films, value=None, label="Choose a film or picture", visible=bool(self.films), elem_id="choice"
                )
                self.upload = gr.File(
                    label="or upload a film, a picture, or the pictures of one video",
                    file_count="multiple",
                    file_types=sorted(IMAGES | VIDEOS),
                    height=150,
                    elem_id="upload",
                )
                self.sentences = gr.Textbox(
                    label="What to look for, a sentence a line",
                    placeholder="the brown horse\nthe rider",
                    lines=3,
                    visible=not clicks,
                    elem_id="sentences",
                )
                with gr.Row(visible=clicks):
                    self.name = gr.Textbox("object", label="Name of the object", elem_id="object", min_width=120)
                    self.kind = gr.Radio(list(view.KINDS), value=view.KINDS[0], label="A click means", elem_id="kind")
                self.position = gr.Slider(0, 1, 0, step=1, label="Frame", interactive=False, elem_id="position")
                self.frame = gr.Image(label="The frame", interactive=False, elem_id="frame", format="jpeg", buttons=[])
                with gr.Row():
                    self.start = gr.Button("Segment", variant="primary", elem_id="segment", min_width=80)
                    self.stop = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=80)
                    self.undo = gr.Button("Undo", visible=clicks, elem_id="undo", min_width=80)
                    self.clear = gr.Button("Clear", visible=clicks, elem_id="clear", min_width=80)
                self.pointed = gr.Textbox(
                    view.told([]), label="Pointed at", lines=2, interactive=False, visible=clicks, elem_id="pointed"
                )
            with gr.Column():
                self.status = gr.HTML("Ready.", elem_id="status")
                self.film = gr.Video(label="Result", height=420, autoplay=True, loop=True, elem_id="film")
                self.still = gr.Image(label="Result", height=420, visible=False, elem_id="still", format="png")
                self.sheet = gr.Image(label="Contact sheet", elem_id="sheet", format="png")
                self.zip = gr.DownloadButton("Masks as a zip", interactive=False, elem_id="zip")
                self.command = gr.Code(
                    label="The same on the command line", language="shell", wrap_lines=True, elem_id="command"
                )

    def _connect(self) -> None:
        seen = [self.session, self.position, self.frame, self.pointed]
        results = [self.session, self.status, self.film, self.still, self.sheet, self.zip, self.command, self.frame]
        quick = {"concurrency_limit": 4, "show_progress": "hidden"}
        self.upload.upload(self.take, [self.session, self.upload], seen, **quick, api_name="upload")
        self.choice.input(self.take, [self.session, self.choice], seen, **quick, api_name="choose")
        self.position.release(self.look, [self.session, self.position], self.frame, **quick, api_name="look")
        self.frame.select(
            self.point, [self.session, self.position, self.name, self.kind], seen, **quick, api_visibility="private"
        )
        self.undo.click(self.take_back, [self.session, self.position], seen, **quick, api_name="undo")
        self.clear.click(self.start_anew, [self.session, self.position], seen, **quick, api_name="clear")
        self.start.click(self.ask, self.session, [self.session, self.status], queue=False, api_name="ask").then(
            self.segment,
            [self.session, self.sentences, self.position],
            results,
            concurrency_limit=1,
            concurrency_id="network",
            show_progress="hidden",
            api_name="segment",
        )
        self.stop.click(self.cancel, self.session, self.status, queue=False, api_name="cancel")

    def take(self, session: Session, given: Any) -> tuple[Session, Any, Any, str]:
        """A film, a picture or pictures that were chosen or uploaded: show the first frame."""
        before, session = session, new_session()
        if not given:
            self.forget(before)
            return session, gr.Slider(value=0, interactive=False), None, view.told([])
        paths = [given] if isinstance(given, str) else list(given)
        try:
            source = paths[0] if len(paths) == 1 else self._together(session, paths)
            frames = len(view.footage(source).frames)
            if frames > self.desk.most_frames:
                raise DataError(f"{frames} frames; this page takes {self.desk.most_frames}")
            session["source"] = source
            picture = view.frame(source, 0, [], None, None)
        except (DataError, OSError) as error:
            self.forget(session)  # what was there before stays on the page
            raise gr.Error(str(error)) from error
        self.forget(before)
        slider = gr.Slider(0, max(1, frames - 1), value=0, interactive=frames > 1, label=f"Frame (0 to {frames - 1})")
        return session, slider, picture, view.told([])

    def _together(self, session: Session, paths: list[str]) -> str:
        """Uploaded pictures of one video in one folder.

        Raises:
            DataError: two have one name.
        """
        names = Counter(Path(path).name for path in paths)
        if twice := next((name for name, count in names.items() if count > 1), None):
            raise DataError(f"{names[twice]} pictures are called {twice}: frames of one video need a name each")
        folder = session["own"] = tempfile.mkdtemp(prefix="frames_", dir=self.desk.root)
        for path in paths:
            Path(folder, Path(path).name).symlink_to(Path(path).resolve())
        return folder

    def look(self, session: Session, position: float) -> Any:
        """Another frame."""
        if not session["source"]:
            return None
        last = len(view.footage(session["source"]).frames) - 1
        at = min(int(position), last)
        return view.frame(session["source"], at, session["prompts"], session["corner"], session["result"])

    def point(
        self, session: Session, position: float, name: str, kind: str, event: gr.SelectData
    ) -> tuple[Session, Any, Any, str]:
        """A click on the frame."""
        if not session["source"] or not self.desk.clicks:
            return session, gr.skip(), gr.skip(), gr.skip()
        at = [float(side) for side in event.index]
        prompts, corner = view.pointed(session["prompts"], int(position), name, kind, session["corner"], at)
        session = {**session, "prompts": prompts, "corner": corner}
        return session, gr.skip(), self.look(session, position), view.told(prompts)

    def take_back(self, session: Session, position: float) -> tuple[Session, Any, Any, str]:
        """Without the last click."""
        prompts = session["prompts"] if session["corner"] else view.undone(session["prompts"])
        session = {**session, "prompts": prompts, "corner": None}
        return session, gr.skip(), self.look(session, position), view.told(prompts)

    def start_anew(self, session: Session, position: float) -> tuple[Session, Any, Any, str]:
        """Without any click, and without the masks they gave."""
        self._drop(session["result"])
        session = {**session, "prompts": [], "corner": None, "result": None}
        return session, gr.skip(), self.look(session, position), view.told([])

    def ask(self, session: Session) -> tuple[Session, str]:
        """Note a wish at once, so that it can be taken back before its turn comes."""
        if session["job"] not in self.jobs:
            session = {**session, "job": uuid4().hex}
            self.jobs[session["job"]] = Event()
        return session, "Waiting for its turn ..."

    def segment(self, session: Session, sentences: str, position: float) -> Iterator[tuple[Any, ...]]:
        """Do it, telling how far it is; at the end show everything."""
        lines = tuple(line.strip() for line in (sentences or "").splitlines() if line.strip())
        wish = Wish(session["source"], *((), tuple(session["prompts"])) if self.desk.clicks else (lines,))
        if session["job"] not in self.jobs:
            session, _ = self.ask(session)
        job, waiting = session["job"], [gr.skip()] * 6
        cancel = self.jobs[job]
        try:
            if cancel.is_set():
                raise Cancelled
            yield session, bar("Starting ...", 0, 1), *waiting
            for said in self.desk.segment(wish, cancel):
                if said.folder is None:
                    yield session, bar(str(said), said.frames, said.total), *waiting
                else:
                    self._drop(session["result"])
                    yield self._finished({**session, "result": str(said.folder)}, wish, said.folder, position)
        except Cancelled:
            yield session, "Cancelled.", *waiting
        except (ValueError, OSError) as error:  # DataError, a network that asks for something else
            yield session, "Not done.", *waiting
            raise gr.Error(str(error)) from error
        finally:
            self.jobs.pop(job, None)

    def _finished(self, session: Session, wish: Wish, folder: Path, position: float) -> tuple[Any, ...]:
        film, still, sheet = (folder / name for name in ("overlay.mp4", "overlay.png", "contact_sheet.png"))
        return (
            session,
            f"Done: {len(list((folder / 'masks').iterdir()))} frames.",
            gr.Video(str(film) if film.exists() else None, visible=film.exists()),
            gr.Image(str(still) if still.exists() else None, visible=still.exists()),
            gr.Image(str(sheet) if sheet.exists() else None, visible=sheet.exists()),
            gr.DownloadButton(value=str(zipped(folder)), interactive=True),
            wish.command(self.desk.system, self.desk.root),
            self.look(session, position),
        )

    def cancel(self, session: Session) -> str:
        """Stop this visitor's own work after the window that is being computed, or before it has begun."""
        job = self.jobs.get(session["job"] or "")
        if job is None:
            return "Nothing is running."
        job.set()
        return "Cancelling ..."

    def forget(self, session: Session) -> None:
        """Delete what a visitor has uploaded together and got, and what nobody waits for any more."""
        self._drop(session["result"])
        if (job := self.jobs.pop(session["job"] or "", None)) is not None:
            job.set()
        if session["own"]:
            shutil.rmtree(session["own"], ignore_errors=True)

    def _drop(self, result: str | None) -> None:
        """Delete a result: `result_.../predictions/<video>` in the page's own folder."""
        if result is not None:
            inside = Path(result).relative_to(self.desk.root).parts[0]
            shutil.rmtree(self.desk.root / inside, ignore_errors=True)


def bar(text: str, done: int, total: int) -> str:
    """A line of text with a bar below."""
    return f"{text}<br><progress value='{done}' max='{max(1, total)}'></progress>"

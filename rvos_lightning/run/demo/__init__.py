"""`rvos demo`: a web page to type and click on a video."""

import argparse
import os
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rvos_lightning.run.hub_folder import find
from rvos_lightning.run.words import network_of

INSTALL = "pip install --constraint constraints.txt --editable '.[demo]'"


def main(words: Sequence[str]) -> int:
    """Open the page and serve it until it is ended; returns the exit status (2: refused)."""
    options, overrides = parser().parse_known_args(list(words))
    if find_spec("gradio") is None:
        return refuse(f"the page needs gradio: {INSTALL}")
    try:
        source = what_to_run(options, overrides)
        with tempfile.TemporaryDirectory(prefix="rvos_demo_", ignore_cleanup_errors=True) as folder:
            # Read when gradio is imported: uploads go where they are deleted, and nothing is sent anywhere.
            os.environ["GRADIO_TEMP_DIR"], os.environ["GRADIO_ANALYTICS_ENABLED"] = str(Path(folder, "up")), "False"
            serve(options, source, overrides, Path(folder))
    except (ValueError, OSError) as error:
        return refuse(str(error))
    return 0


def serve(options: argparse.Namespace, source: str, overrides: Sequence[str], folder: Path) -> None:
    """Load, open, wait.

    Raises:
        ValueError: configuration or weights do not fit, or the weights are random.
        OSError: no such file, or no free port.
    """
    from rvos_lightning.run.demo.page import Page
    from rvos_lightning.run.demo.work import Desk
    from rvos_lightning.run.model import load

    if options.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"--device {options.device}: no such device here; leave it out to run on the CPU")
    model = load(source, options.weights, overrides, options.device, options.trust)
    recipe = not Path(source).is_dir()
    if recipe and options.weights is None and not options.untrained:
        from rvos_lightning.run.lightning_cli import random_parts

        if random := random_parts(model.network):
            raise ValueError(f"random weights in {', '.join(random)}: give --run FOLDER or --model.weights FILE")
    said = ["-c", source] if recipe else ["--run", source]
    said += ["--model.weights", str(options.weights)] if options.weights else []
    desk = Desk(model, [*said, *(["--untrained"] if options.untrained else []), *overrides], folder, options.frames)
    page = Page(desk, options.films, options.keep)
    _, address, _ = page.blocks.queue(max_size=32).launch(
        server_name=options.host,
        server_port=options.port,
        max_file_size=f"{options.megabytes}mb",
        allowed_paths=[str(folder)],
        theme=page.theme,
        css=page.css,
        share=False,
        footer_links=[],
        inbrowser=options.open,
        quiet=True,
        prevent_thread_lock=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or what visitors left would stay
    print(f"{address.rstrip('/')}   Ctrl-C ends it and deletes what visitors left", flush=True)
    page.blocks.block_thread()


def parser() -> argparse.ArgumentParser:
    """The verb's own options; others are flags of the configuration."""
    made = argparse.ArgumentParser(prog="rvos demo", description=__doc__, allow_abbrev=False)
    made.add_argument("--run", type=Path, help="folder of a run, or a pulled name; none: the newest under runs/")
    made.add_argument("-c", "--config", type=Path, help="a recipe, with --model.weights")
    made.add_argument("--model.weights", dest="weights", type=Path, help="weights of ours for the recipe")
    made.add_argument("--untrained", action="store_true", help="random weights are meant")
    made.add_argument("--trust", action="store_true", help="what was pulled may name foreign classes")
    made.add_argument("--device", default="cpu", help="cpu, cuda")
    made.add_argument("--films", type=Path, help="a folder whose films and pictures are offered for choice")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
    made.add_argument("--port", type=int, help="7860, or the next that is free")
    made.add_argument("--frames", type=int, default=2000, help="most frames of a film")
    made.add_argument("--megabytes", type=int, default=200, help="largest upload")
    made.add_argument("--keep", type=int, default=60, help="minutes until uploads and results are deleted")
    made.add_argument("--open", action="store_true", help="open a browser")
    return made


def what_to_run(options: argparse.Namespace, overrides: Sequence[str]) -> str:
    """The run or recipe that is meant.

    Raises:
        ValueError: none, both, no recipe, or a word that is no flag.
    """
    if strange := [word for before, word in zip(["", *overrides], overrides, strict=False) if lost(before, word)]:
        raise ValueError(f"what is {strange[0]!r}? rvos demo --help")
    if options.port is not None and not 0 < options.port < 1 << 16:
        raise ValueError(f"--port {options.port}: expected 1 to 65535")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        raise ValueError(f"--device {options.device}: expected cpu, cuda or cuda:N")
    if options.frames < 1 or options.megabytes < 1 or options.keep < 1:
        raise ValueError("--frames, --megabytes and --keep must be at least 1")
    if options.run is not None and options.config is not None:
        raise ValueError("give --run FOLDER or -c RECIPE, not both")
    if options.config is not None:
        if network_of(options.config) is None:
            raise ValueError(f"-c {options.config}: no recipe (it gives no model.network); see rvos parts recipes")
        return str(options.config)
    if options.run is not None:
        return str(find(options.run) or options.run)
    runs = [path.parents[1] for path in Path("runs").glob("*/fit/*/checkpoints/*.ckpt")]
    if not runs:
        raise ValueError("no run with weights under runs/: train one (rvos fit -c configs/tiny.yaml, 4 minutes), or "
                         "give --run FOLDER, or -c RECIPE --model.weights FILE")  # fmt: skip
    return str(max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime))


def lost(before: str, word: str) -> bool:
    """Neither a flag of the configuration nor the value of one."""
    return not word.startswith("--") and not (before.startswith("--") and "=" not in before)


def refuse(text: str) -> int:
    """Say what is wrong; exit status 2."""
    print(f"error: {text}", file=sys.stderr)
    return 2

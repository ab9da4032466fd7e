"""Which exceptions are for the user to mend, and what to say of them instead of a traceback."""

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from rvos_lightning.core.module import NonFiniteLoss
from rvos_lightning.data.whole import FULL, REMEDY
from rvos_lightning.run.words import typed

OURS = (Path(__file__).parents[1], Path(__file__).parents[2] / "callbacks")
OFFLINE = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "HfHubHTTPError", "RepositoryNotFoundError")
FILES = ("weights", "tokenizer", "pretrained")


class TrainerRefused(ValueError):
    """The trainer does not take its arguments; says which and why."""


def explain_exception(error: BaseException, words: Sequence[str]) -> str | None:
    """A few lines for the user, or None where the traceback is needed.

    Args:
        error: what ended the command.
        words: the command line.
    """
    if isinstance(error, NonFiniteLoss | TrainerRefused):
        return str(error)
    if text := _from_worker(error):
        return text
    if mendable(error):
        return str(error)
    if text := _from_hub(error, words):
        return text
    if text := _from_constructor(error):
        return text
    name = type(error).__module__.partition(".")[0]
    if name == "omegaconf":
        return _interpolation(str(error), words)
    if isinstance(error, MisconfigurationException):
        return _first_sentences(str(error)) + _remedy(str(error))
    if text := _from_early_stopping(error):
        return text
    if isinstance(error, re.error):
        return f"not a regular expression: {error.pattern!r} ({error.msg})"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{error.filename or 'the run folder'}: cannot be written ({error.strerror}). {REMEDY}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ValueError) and "numpy accepts" in str(error):
        return f"seed_everything: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("rvos_lightning"):
        package = error.name.partition(".")[0]
        return f"the package {package} is not installed: pip install {package}"
    return None


def _from_early_stopping(error: BaseException) -> str | None:
    """A monitor that is found to be missing only when the first validation ends."""
    said = r"Early stopping conditioned on metric `([^`]+)` which is not available\..*: (.*)"
    if not isinstance(error, RuntimeError) or not (match := re.match(said, str(error), flags=re.DOTALL)):
        return None
    return f"EarlyStopping monitors {match[1]!r}, which no metric logs\n  expected  one of: {match[2].replace('`', '')}"


def mendable(error: BaseException) -> bool:
    """Whether our own code raised this on purpose, so that a traceback would only hide the message."""
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, ValueError) or not frames:
        return False
    last = frames[-1]
    ours = not set(OURS).isdisjoint(Path(last.filename).parents)
    return ours and (last.line or "").lstrip().startswith("raise")  # "not enough values to unpack" is a fault of ours


@contextmanager
def trainer_refused(given: Any) -> Iterator[None]:
    """Around the making of a trainer: what it refuses is one line with the remedy.

    Raises:
        TrainerRefused: instead of what the trainer raised.
    """
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        text = str(error)
        if isinstance(given.strategy, str) and "strategy" in text and "invalid" in text:
            raise TrainerRefused(_no_strategy(given.strategy)) from error
        raise TrainerRefused(f"trainer: {_first_sentences(text)}{_remedy(text)}") from error


def _no_strategy(name: str) -> str:
    from lightning.pytorch.strategies import StrategyRegistry

    known = StrategyRegistry.available_strategies()
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"\n  nearest   {', '.join(near)}" if near else ""
    return (
        f"trainer.strategy: no strategy {name!r}\n  expected  auto, ddp, or a file: -c configs/trainer/NAME.yaml{hint}"
    )


def _remedy(text: str) -> str:
    remedies = {
        r"[Nn]o supported gpu|GPU.*(not|no)|cuda|CUDA": "no GPU is usable here: --trainer.accelerator cpu",
        r"enable_checkpointing": "add --callbacks.best null --callbacks.last null",
        r"devices": "--trainer.devices 1, or as many as there are",
        r"val_check_interval": "--trainer.val_check_interval N (batches), or 1.0 for once an epoch",
    }
    found = next((remedy for pattern, remedy in remedies.items() if re.search(pattern, text)), None)
    return f"\n  remedy    {found}" if found else ""


def _interpolation(text: str, words: Sequence[str]) -> str:
    place = re.search(r"full_key: (?:\w+\.)?(\S+)", text)
    where = f" (in {place[1]})" if place else ""
    if match := re.search(r"Environment variable '(\w+)' not found", text):
        name = match[1]
        return f"${{oc.env:{name}}}{where}: the variable is not set: export it, or write ${{oc.env:{name},DEFAULT}}"
    if match := re.search(r"Interpolation key '([^']+)' not found", text):
        near = get_close_matches(match[1], [key for key, _ in typed(words)], n=3, cutoff=0.5)
        hint = f"\n  nearest   {', '.join(near)}" if near else ""
        return f"${{{match[1]}}}{where}: no such key{hint}"
    return f"{text.splitlines()[0]}{where}"


def _from_worker(error: BaseException) -> str | None:
    """What a loader process raised, which arrives as a page with its whole traceback."""
    text = str(error)
    died = r"DataLoader worker \(pid(?:\(s\))? ([^)]+)\) (?:is )?(killed by signal[^.]*|exited unexpectedly)"
    if killed := re.search(died, text):
        return (
            f"loader worker, process {killed[1]}: {killed[2]}. Out of memory, most likely, or ended from outside: "
            "fewer --data.workers (of score: --workers), or smaller --data.batch_size"
        )
    if not text.startswith("Caught ") or "worker process" not in text.partition("\n")[0]:
        return None
    name = type(error).__name__
    said = re.split(rf"\n(?:[\w.]+\.)?{name}: ", text)
    ours = type(error).__module__.startswith(("rvos_lightning", "callbacks"))
    return said[-1].strip() if ours and len(said) > 1 else None


def _from_constructor(error: BaseException) -> str | None:
    """What a part's constructor refused, out of the parser's page about it."""
    if not isinstance(error, ValueError):
        return None
    found = re.findall(r"Problem with given class_path '([^']+)':\s*\n\s*(.+(?:\n(?!\s*- ).+)*)", str(error))
    if not found:
        return None
    owner, reason = found[-1]
    if package := re.search(r"No module named '([\w.]+)'|pip install (?:-U |--upgrade )?[`'\"]?(\w[\w-]*)", reason):
        name = (package[1] or package[2]).partition(".")[0]
        return f"{owner.rpartition('.')[2]} needs the package {name}: pip install {name}"
    return f"{owner.rpartition('.')[2]}: {_first_sentences(reason)}"


def _from_hub(error: BaseException, words: Sequence[str]) -> str | None:
    """A hub id, or the name of a folder that is not there, which a hub library took for one."""
    chain: BaseException | None = error
    while chain is not None:
        text = str(chain)
        if type(chain).__name__ in OFFLINE or "couldn't connect to" in text or "offline mode" in text.lower():
            given = [(key, value) for key, value in typed(words) if key.rpartition(".")[2] in FILES]
            absent = [f"{key} {value}" for key, value in given if isinstance(value, str) and not Path(value).exists()]
            what = "; ".join(dict.fromkeys(absent)) or _first_sentences(text)
            return f"{what}: not on this machine, and nothing reaches the network without --hub: give a path, or --hub"
        chain = chain.__cause__ or chain.__context__
    return None


def _first_sentences(text: str, most: int = 300) -> str:
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return plain if len(plain) <= most else plain[:most].rpartition(" ")[0] + " ..."

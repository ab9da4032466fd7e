"""The command line's front door, `rvos` = `python -m rvos_lightning`: help at once, heavy imports only when needed."""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any

from rvos_lightning.run.usage import FRONT, PAGES
from rvos_lightning.run.words import WordsError, at_home, fault, limits_in, said_in_full, wants_hub, without_limits

VERBS = {
    "fit": "lightning_cli",
    "validate": "lightning_cli",
    "test": "lightning_cli",
    "predict": "lightning_cli",
    "cache": "cache",
    "check": "check",
    "score": "score",
    "convert": "convert",
    "forecast": "forecast",
    "sweep": "sweep",
    "sample": "sample",
    "labels": "labels",
    "parts": "parts",
    "push": "push",
    "pull": "pull",
    "demo": "demo",
}
"""Verb -> module of `rvos_lightning.run` whose `main(words)` answers it."""

CONFIGURED = ("fit", "validate", "test", "predict", "cache", "check", "score", "forecast")
"""Verbs that take configuration files."""


def main(args: Sequence[str] | None = None) -> Any:
    """Run a command line; `args` as in `sys.argv[1:]`, so that tests call it in process.

    Returns:
        The `LightningCLI` object of fit, validate, test and predict; the exit status of all others.
    """
    words = at_home(sys.argv[1:] if args is None else args)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help", "help"):
        print(FRONT)
        return 0
    if verb == "--version":
        print(f"rvos_lightning {version('rvos_lightning')}")
        return 0
    if verb == "--completion":
        from rvos_lightning.run.completion import SHELLS, script

        shell = words[1] if len(words) > 1 else "bash"
        if shell not in SHELLS:
            sys.exit(_usage(f"error: no completion for {shell!r}\n  expected  one of: {', '.join(SHELLS)}"))
        print(script(shell, VERBS, PAGES))
        return 0
    if verb not in VERBS:
        near = get_close_matches(verb, [*VERBS, "--help", "--version", "--completion"], n=3, cutoff=0.4)
        hint = f"\n  nearest   {', '.join(near)}" if near else ""
        sys.exit(_usage(f"error: no verb {verb!r}\n  expected  one of: {', '.join(VERBS)}{hint}"))
    asked = [word for word in words[1:] if word in ("-h", "--help")]
    if asked and words[-1] != "all":
        print(PAGES[verb])
        return 0
    if asked:
        words = [word for word in words[:-1] if word not in ("-h", "--help")] + ["--help"]
    if asked_of_part := next((word for word in words if word.endswith(".help")), None):
        from rvos_lightning.run.parts import help_of

        if help_of(asked_of_part, words):
            return 0
    if verb in CONFIGURED:
        try:
            words = said_in_full(words, weights=VERBS[verb] == "lightning_cli")
            if what := fault(words):
                raise WordsError(what)
        except WordsError as error:
            sys.exit(_usage(f"error: {error}"))
    stay_offline(words)
    with limits(words) as words:
        with for_good() if args is None else nullcontext():
            module = import_module(f"rvos_lightning.run.{VERBS[verb]}")
        if VERBS[verb] == "lightning_cli":
            return module.main(words)
        return in_few_lines(module.main, words[1:])


def command() -> None:
    """The console script: ends with the verb's exit status; quietly where nobody reads on (`rvos parts | head`)."""
    try:
        done = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at the end goes there
        sys.exit(128 + signal.SIGPIPE)
    sys.exit(done if isinstance(done, int) else 0)


def in_few_lines(verb: Callable[[Sequence[str]], Any], words: Sequence[str]) -> Any:
    """A verb's answer; what a user can mend, such as a full disk, is told without a traceback."""
    try:
        return verb(words)
    except Exception as error:
        from rvos_lightning.run.failures import explain_exception

        if (text := explain_exception(error, words)) is None:
            raise
        sys.exit(f"error: {text}")


@contextmanager
def for_good() -> Iterator[None]:
    """Around the imports of a process that is ours: what they leave is never looked through for garbage.

    A million objects and no garbage: looking through them on the way and once more at the end takes a third of the
    processor time of a command that does little else.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        if "triton" in sys.modules:  # its binding lists as leaked whatever it finds unfreed at the end
            atexit.register(gc.unfreeze)


@contextmanager
def limits(words: Sequence[str]) -> Iterator[list[str]]:
    """Around a verb: the limits that its words and files raise; gives the words that the verb itself understands."""
    given = limits_in(words)
    if not given:
        yield list(words)
        return
    from rvos_lightning.data.errors import DataError
    from rvos_lightning.data.limits import raised

    with ExitStack() as stack:
        try:
            stack.enter_context(raised(given))
        except DataError as error:
            sys.exit(_usage(f"error: {error}"))
        yield list(words) if words[0] in (*CONFIGURED, "sweep") else without_limits(words)


def stay_offline(words: Sequence[str]) -> None:
    """Nothing reaches the network without `--hub`; said before anything is imported, and to what is there already."""
    if wants_hub(words):
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "huggingface_hub" in sys.modules:  # it has read its variable already: a notebook, or a program around us
        import_module("huggingface_hub.constants").HF_HUB_OFFLINE = True


def _usage(text: str) -> int:
    print(text, file=sys.stderr)
    return 2

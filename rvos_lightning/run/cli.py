"""The command line's front door, `rvos` = `python -m rvos_lightning`: help at once, heavy imports only when needed."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any

from rvos_lightning.run.usage import FRONT, PAGES
from rvos_lightning.run.words import WordsError, fault, said_in_full, wants_hub

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
    "parts": "parts",
    "demo": "demo",
}
"""Verb -> module of `rvos_lightning.run` whose `main(words)` answers it."""

CONFIGURED = ("fit", "validate", "test", "predict", "check", "score", "forecast")
"""Verbs that take configuration files."""


def main(args: Sequence[str] | None = None) -> Any:
    """Run a command line; `args` as in `sys.argv[1:]`, so that tests call it in process.

    Returns:
        The `LightningCLI` object of fit, validate, test and predict; the exit status of all others.
    """
    words = list(sys.argv[1:] if args is None else args)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help", "help"):
        print(FRONT)
        return 0
    if verb == "--version":
        print(f"rvos_lightning {version('rvos_lightning')}")
        return 0
    if verb == "--completion":
        from rvos_lightning.run.completion import script

        print(script(words[1] if len(words) > 1 else "bash", VERBS, PAGES))
        return 0
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=3, cutoff=0.4)
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
    module = import_module(f"rvos_lightning.run.{VERBS[verb]}")
    return module.main(words if VERBS[verb] == "lightning_cli" else words[1:])


def command() -> None:
    """The console script: ends with the verb's exit status."""
    done = main()
    sys.exit(done if isinstance(done, int) else 0)


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

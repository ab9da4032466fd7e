"""Every command in the head of a YAML file or on a page of documentation can be typed: verb, files and flags exist."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from rvos_lightning.run.cli import VERBS, main
from rvos_lightning.run.usage import PAGES as HELP

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), ROOT / "slurm/README.md"]
PAGES += [*ROOT.glob("rvos_lightning/**/README.md"), *ROOT.glob("configs/**/*.yaml"), *ROOT.glob("examples/*.yaml")]
START = re.compile(
    r"(^#?\s*|`)(?:\S*python3? -m rvos_lightning|rvos|\.\.\.)\s+(?=[a-z])"
    r"|(?<=\S)( )python -m rvos_lightning "  # in a sentence
)
CONFIGURED = [verb for verb, module in VERBS.items() if module == "lightning_cli"]


class Command(NamedTuple):
    """Where a command stands, and its words from the verb on."""

    where: str
    words: tuple[str, ...]


def commands_of(text: str, where: str) -> list[Command]:
    """Commands at the start of a line or inside backticks; what a flag goes on with may follow on a line of its own."""
    text = re.sub(r"\\\n#?\s*|\n#\s+(?=--)", " ", text)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for start in START.finditer(line):
            rest = line[start.end() :]
            words = words_of(rest.split("`")[0] if "`" in start[0] else rest)
            if words and (words[0] in VERBS or "..." not in start[0]):
                found.append(Command(f"{where}:{number}", words))
    return found


def words_of(line: str) -> tuple[str, ...]:
    """A shell's words up to a pipe, a redirection, a comment; [brackets] mark what may be left out, we put it in."""
    split = shlex.shlex(re.sub(r"\[(--[^\]]*)\]", r"\1", line), posix=True, punctuation_chars=";|>&()")
    split.whitespace_split = True
    words = list(split)
    return tuple(words[: next((i for i, word in enumerate(words) if set(word) <= set(";|>&()")), len(words))])


def every() -> list[Command]:
    """All commands, each text once."""
    found = [c for page in PAGES for c in commands_of(page.read_text(), str(page.relative_to(ROOT)))]
    return list({command.words: command for command in reversed(found)}.values())


COMMANDS = every()


def flags(words: tuple[str, ...]) -> tuple[str, ...]:
    """What is set beyond configuration files."""
    return tuple(word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word) and word != "-c")


def parsed() -> list[Command]:
    """One command for each verb and set of flags: test_configs parses the files themselves, alone and in overlays."""
    kinds = {(c.words[0], flags(c.words)): c for c in COMMANDS if flags(c.words)}
    return list(kinds.values())


def as_if_run(line: str) -> list[str]:
    """The recipe in place of a run of it, which nobody has made here."""
    line = line.replace("--run runs/horse", "-c configs/samwise.yaml -c examples/horse.yaml")
    line = re.sub(r"--run runs/(\w+)/fit/0", r"-c configs/\1.yaml", line)
    line = re.sub(r"(?:--run|-c) (?:hub/)?me/(\w+)-shapes(?:/config.yaml)?", r"-c configs/\1.yaml", line)
    line = re.sub(r"runs/(\w+)/fit/0/config.yaml", r"configs/\1.yaml", line)
    return shlex.split(line.replace("RUN/config.yaml", "configs/tiny.yaml"))


def label(command: Command) -> str:
    return f"{command.where} {command.words[0]}"


def test_there_are_commands_everywhere():
    assert {command.where.split(":")[0].split("/")[0] for command in COMMANDS} >= {"README.md", "configs", "slurm"}


@pytest.mark.parametrize("command", COMMANDS, ids=label)
def test_verb_and_files_exist(command):
    assert command.words[0] in VERBS, f"{command.where}: no verb {command.words[0]}; known: {', '.join(VERBS)}"
    for word in command.words[1:]:
        path = word.partition("=")[2] or word
        if re.match(r"(configs|slurm|tests|callbacks|rvos_lightning)/", path) and not set(path) & set("*{<"):
            assert (ROOT / path).exists(), f"{command.where}: {path} does not exist"


@cache
def help_of(verb: str) -> str:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([verb, "--help", "all"])
    return out.getvalue() + HELP[verb]  # sub-verbs have their flags there


@pytest.mark.parametrize("command", parsed(), ids=label)
def test_flags_parse(command, run, capsys):
    verb, *rest = command.words
    if verb not in CONFIGURED:
        own = [flag for flag in flags(command.words) if "." not in flag]
        assert not [flag for flag in own if not re.search(rf"{flag}\b", help_of(verb))], command
        return
    words = [word for word in as_if_run(" ".join(map(shlex.quote, rest))) if word != "--print_config"]
    with pytest.raises(SystemExit) as stop:
        run(verb, *words, "--print_config")
    assert stop.value.code in (0, None), capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "#   python -m rvos_lightning fit -c a.yaml\n#     --data.root X",
            [("fit", "-c", "a.yaml", "--data.root", "X")],
        ),
        ("see `rvos score -c a.yaml --predictions m.zip` and", [("score", "-c", "a.yaml", "--predictions", "m.zip")]),
        ("#   ... validate -c a.yaml  # slow", [("validate", "-c", "a.yaml")]),
        (
            "python -m rvos_lightning fit -c a.yaml [--trainer.devices 4]",
            [("fit", "-c", "a.yaml", "--trainer.devices", "4")],
        ),
        ("`rvos frobnicate x` no", [("frobnicate", "x")]),
        ("rvos sweep expand 'a=[1, 2]' > a.txt", [("sweep", "expand", "a=[1, 2]")]),
        ("one may ... fit it, as rvos is light", []),
    ],
)
def test_commands_are_found(text, words):
    assert [command.words for command in commands_of(text, "x")] == words

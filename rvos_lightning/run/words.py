"""What can be said of a command line from its words and files alone, before anything heavy is imported."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

ALONE = ("--hub", "--untrained")
"""Flags that mean `true` where no value follows."""

OF_VERBS = ("ckpt_path", "weights_only", "return_predictions", "verbose")
"""What a saved or printed configuration says for its verb alone."""


def config_files(words: Sequence[str]) -> list[str]:
    """The files given by -c or --config, in order."""
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in ("-c", "--config"):
            found.append(after)
        elif word.startswith("--config="):
            found.append(word.partition("=")[2])
        elif word.startswith("-c"):  # -cFILE, -c=FILE
            found.append(word[2:].removeprefix("="))
    return found


def value_of(words: Sequence[str], key: str) -> str | None:
    """The last value a flag was given on the command line, None if it was not."""
    found = None
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == f"--{key}":
            found = after
        elif word.startswith(f"--{key}="):
            found = word.partition("=")[2]
    return found


def at_home(words: Sequence[str]) -> list[str]:
    """The words with a `~/` that the shell has left, after `=` or in quotes, as the home folder."""
    return [
        re.sub(r"^(-[^=\s]*=)?(~(?=/).*)", lambda found: (found[1] or "") + expanded(found[2]), word) for word in words
    ]


def expanded(value: Any) -> Any:
    """A value, with every text in it that begins with `~/` as a path."""
    if isinstance(value, dict):
        return {key: expanded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [expanded(each) for each in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def wants_hub(words: Sequence[str]) -> bool:
    """Whether `--hub` was typed, or `hub: true` stands at the top of a configuration file."""
    given = value_of(words, "hub")
    if given is not None:
        return given.lower() not in ("false", "no", "off", "0")
    tops = [content for content in map(read_yaml, config_files(words)) if isinstance(content, dict)]
    return any(content.get("hub") is True for content in tops)


def limits_in(words: Sequence[str]) -> dict[str, Any]:
    """Name -> number of the limits that flags and configuration files raise; later ones win."""
    import json

    found: dict[str, Any] = {}
    for key, value in typed(words):
        if key == "limits" and isinstance(value, str):
            with suppress(ValueError):
                found.update(json.loads(value))
        elif key.startswith("limits."):
            found[key.removeprefix("limits.")] = value
    return found


def without_limits(words: Sequence[str]) -> list[str]:
    """The words without flags of limits, for verbs that have no configuration."""
    kept: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if not word.startswith(("--limits.", "--limits=")) and word != "--limits":
            kept.append(word)
        elif "=" not in word and pending:
            pending.pop(0)
    return kept


SECTIONS = ("model", "trainer", "objectives", "callbacks", "limits")
"""Keys at the top of a configuration file that hold others."""


class WordsError(ValueError):
    """A command that cannot be meant, found before anything is imported."""


def said_in_full(words: Sequence[str], weights: bool = True) -> list[str]:
    """The words with `--run FOLDER` spelled out, `true` after flags that may stand alone, a lone sentence as a list.

    Args:
        words: of a command line; `--trust` lets a pulled configuration name foreign classes.
        weights: `--run` means the run's weights, too.

    Raises:
        WordsError: no run in that folder, or a pulled configuration that names what is not ours.
    """
    trust, words = "--trust" in words, [word for word in words if word != "--trust"]
    said: list[str] = []
    pending = [f"{word}=true" if lone else word for word, lone in zip(words, _lone(words), strict=True)]
    while pending:
        word = pending.pop(0)
        if word == "--run" and not pending:
            raise WordsError("--run needs the folder of a run, e.g. --run runs/samwise/fit/0")
        if word.startswith("--run=") or word == "--run":
            folder = _folder_of(pending.pop(0) if word == "--run" else word.partition("=")[2])
            said += ["-c", str(_config_of(folder)), *(_weights_of(folder, words[0]) if weights else ())]
        elif re.fullmatch(r"--[\w.]*\.expressions", word) and pending:
            said += [word, _sentences(pending.pop(0))]
        elif match := re.match(r"(--[\w.]*\.expressions)=(.*)", word, flags=re.DOTALL):
            said += [match[1], _sentences(match[2])]
        else:
            said.append(word)
    for file in config_files(said):
        _look_through(file, trust)
    return said


def _look_through(file: str, trust: bool) -> None:
    from rvos_lightning.run import hub_folder

    if "\n" in file or not hub_folder.is_hub_folder(Path(file).parent):
        return
    try:
        hub_folder.check(Path(file).parent, trust)
    except hub_folder.HubError as error:
        raise WordsError(str(error)) from error


def _sentences(value: str) -> str:
    """One sentence as a list of one: as it stands, YAML would read "the note: red, or blue" as a mapping."""
    import json

    import yaml

    with suppress(ValueError):
        if isinstance(json.loads(value), dict):
            return value  # the parser says that this is no list of sentences
    if value.lstrip()[:1] == "[":
        with suppress(yaml.YAMLError):
            if isinstance(yaml.safe_load(value), list):
                return value
        remedy = """write '["one", "another"]', also around a single sentence that begins with ["""
        raise WordsError(f"a list of sentences that is none: {value}\n  expected  {remedy}")
    return value if not value.strip() or value in ("null", "None") else json.dumps([value])


def _lone(words: Sequence[str]) -> Iterator[bool]:
    for word, after in zip(words, [*words[1:], "-"], strict=True):
        yield word in ALONE and after.startswith("-")


def _folder_of(name: str) -> Path:
    """A run's folder, or that of a pulled system, by its name."""
    from rvos_lightning.run.hub_folder import find

    return find(name) or Path(name)


def _config_of(folder: Path) -> Path:
    if (folder / "config.yaml").exists():
        return folder / "config.yaml"
    known = [str(path.parent) for path in Path("runs").glob("*/*/*/config.yaml")]
    near = get_close_matches(str(folder), known, n=3, cutoff=0.3)
    hint = f"\n  nearest   {', '.join(near)}" if near else ""
    raise WordsError(f"--run {folder}: no config.yaml in it, so no run{hint}")


def _weights_of(folder: Path, verb: str) -> list[str]:
    from rvos_lightning.run.hub_folder import WEIGHTS

    if (folder / WEIGHTS).is_file():
        return [f"--model.weights={folder / WEIGHTS}"]
    names = ("best.ckpt", "last.ckpt", "previous.ckpt")
    path = next((path for name in names if (path := folder / "checkpoints" / name).exists()), None)
    if path is None:
        raise WordsError(f"--run {folder}: no best.ckpt or last.ckpt in its checkpoints/")
    if path.is_file():
        return [f"--model.weights={path}"]
    if verb == "fit":
        raise WordsError(f"--run {folder}: its weights are shards: rvos convert run {path} weights.safetensors first")
    return [f"--ckpt_path={path}"]


def fault(words: Sequence[str]) -> str | None:
    """What is wrong with the configuration files of a command; None if nothing is seen from outside."""
    for file in config_files(words):
        path = Path(file)
        if file.lstrip().startswith(("{", "[")):
            continue  # a configuration as text
        if path.is_dir():
            run = f": a run is given by --run {file}" if (path / "config.yaml").exists() else ""
            return f"-c {file} is a folder, not a configuration{run}"
        if not path.exists():
            return f"-c {file}: no such file{_nearest_file(file)}"
        if not path.is_file():
            return f"-c {file} is no plain file (a pipe?), and a configuration is read more than once: save it first"
        if (what := _no_mapping(path) or _no_section(path)) is not None:
            return f"-c {file}: {what}"
    return two_recipes(words) or overlay_too_early(words)


def _nearest_file(file: str) -> str:
    known = {path.stem: str(path) for path in sorted(Path("configs").rglob("*.yaml"), reverse=True)}
    near = [known[stem] for stem in get_close_matches(Path(file).stem, known, n=3, cutoff=0.5)]
    return (
        f"\n  nearest   {', '.join(near)}"
        if near
        else "\n  expected  a YAML file, e.g. of configs/ (rvos parts recipes)"
    )


def _no_mapping(path: Path) -> str | None:
    import yaml

    try:
        content = _parsed(str(path), path.stat().st_mtime_ns)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        what = f"not YAML ({error.problem}{where})"
    except RepeatedKey as error:
        return str(error)  # the right file, to be mended
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = f"cannot be read ({str(error).splitlines()[0]})"
    else:
        if isinstance(content, dict):
            return None
        what = "holds no keys: not a configuration"
    return what + _nearest_file(str(path))


def _no_section(path: Path) -> str | None:
    """A section that holds no keys; the parser would pass over it, and over all that other files say there."""
    for key, value in read_yaml(path).items():
        if (key in SECTIONS and not isinstance(value, dict)) or (key == "data" and value is None):
            found = "nothing" if value is None else f"{str(value)[:40]!r}"
            return f"{key}: holds {found}\n  expected  keys of its own, indented below it"
    return None


class RepeatedKey(ValueError):
    """A mapping gives one key twice, of which YAML would silently keep the second."""


@lru_cache(maxsize=64)
def _parsed(path: str, stamp: int) -> Any:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            lines: dict[str, int] = {}
            for key, _ in node.value:
                line, name = key.start_mark.line + 1, str(key.value)
                if name in lines and name != "<<":
                    raise RepeatedKey(f"{name!r} stands in line {lines[name]} and again in line {line}: join the two")
                lines[name] = line
            return super().construct_mapping(node, deep)

    return yaml.load(Path(path).read_text(), Loader)


def read_yaml(path: str | Path) -> Any:
    """A YAML file's content; an empty mapping for what is no file or no YAML (the parser says so later)."""
    import yaml

    try:
        return _parsed(str(path), Path(path).stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RepeatedKey):
        return {}


def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted key, as on the command line (without YAML's init_args), and value of every node."""
    if prefix:
        yield prefix, value
    if isinstance(value, dict):
        for key, inner in value.items():
            inside = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
            yield from flat(inside, inner)


def typed(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Dotted key -> value of everything in the -c files, then in the flags."""
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if not word.startswith("-"):
            continue
        key, equals, value = word.lstrip("-").partition("=")
        if not equals and pending and not pending[0].startswith("--"):
            value = pending.pop(0)
        if key in ("c", "config"):
            yield "config", value
            yield from flat("", read_yaml(value))
        else:
            yield key.replace(".init_args", ""), value


def network_of(path: str | Path) -> str | None:
    """The network class that a configuration file gives: such a file is a recipe, any other an overlay."""
    model = content.get("model") if isinstance(content := read_yaml(path), dict) else None
    network = model.get("network") if isinstance(model, dict) else None
    if isinstance(network, dict):
        network = network.get("class_path")
    return network if isinstance(network, str) else None


def two_recipes(words: Sequence[str]) -> str | None:
    """A sentence about two recipes in one command, of which the second would silently keep what the first said."""
    given = [file for file in config_files(words) if network_of(file)]
    if len(given) < 2:
        return None
    return f"{given[0]} and {given[1]} are both recipes (both give model.network): name one; overlays may lie on it"


def overlay_too_early(words: Sequence[str]) -> str | None:
    """A sentence about an overlay that stands before the recipe, which would silently replace what it says."""
    before: dict[str, tuple[str, Any]] = {}
    for file in config_files(words):
        given = {key: value for key, value in flat("", read_yaml(file)) if not isinstance(value, dict)}
        lost = [key for key, value in given.items() if key in before and before[key][1] != value]
        if lost and network_of(file):
            overlay, _ = before[lost[0]]
            return f"{overlay} stands before the recipe {file}, which also gives {lost[0]}: name the recipe first"
        before |= {key: (file, value) for key, value in given.items()}
    return None

"""`rvos push`: a trained system as a folder for others, and onto the hub."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rvos_lightning.data.whole import whole_folder
from rvos_lightning.run.hub_folder import FILES, KEPT, NAME, PULLED, WEIGHTS, HubError, check
from rvos_lightning.run.words import read_yaml


def main(words: Sequence[str]) -> int:
    """Make the folder and upload it; returns the exit status (2: refused)."""
    parser = argparse.ArgumentParser(prog="rvos push", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("name", help="owner/name, as on the hub")
    parser.add_argument("--out", type=Path, default=PULLED, help="the folder is made beneath (hub)")
    parser.add_argument("--licence", default="apache-2.0", help="licence of the weights, for the card")
    parser.add_argument("--hub", action="store_true", help="upload it; you must be logged in (hf auth login)")
    parser.add_argument("--private", action="store_true", help="upload it for yourself alone")
    options = parser.parse_args(list(words))
    try:
        folder = make(options.run, options.name, options.out, options.licence)
        print(folder)
        if options.hub:
            print(upload(folder, options.name, options.private))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def make(run: Path, name: str, out: Path, licence: str) -> Path:
    """Write the folder of a run: configuration, all weights, card, scores and pictures.

    Args:
        run: its folder.
        name: `owner/name`, or `name`.
        out: made beneath this folder.
        licence: of the weights.

    Raises:
        HubError: no run, or a folder of that name is there.
        ValueError: the run cannot be loaded; says why.
        WriteError: no room, or no permission.
    """
    from rvos_lightning.parts.weights import metadata, save
    from rvos_lightning.run.card import card
    from rvos_lightning.run.model import load

    if not NAME.fullmatch(name):
        raise HubError(f"{name!r} is no name: owner/name of letters, digits, . _ -")
    if not (run / "config.yaml").is_file():
        raise HubError(f"{run}: no config.yaml in it, so no run")
    folder = out / name
    if folder.exists():
        raise HubError(f"{folder} is there already: remove it, or choose another name or --out")
    network = load(run).network
    config = read_yaml(run / "config.yaml")
    before, config = config["model"].get("weights"), for_others(config)
    said = metadata(Path(before)) if before else {}  # a tokenizer that the first weights brought along
    with whole_folder(folder) as partial:
        partial.mkdir()
        save(network.state_dict(), partial / WEIGHTS, said)
        (partial / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=10**6))
        for path in [*run.glob("*.csv"), *(run / file for file in ("scores.json", "start.json", "curves.png"))]:
            if path.is_file():
                shutil.copy(path, partial)
        if films := sorted((run / "film").glob("*.png")):
            shutil.copy(films[-1], partial / "film.png")
        (partial / "README.md").write_text(card(partial, config, name, licence))
        check(partial)
    return folder


def for_others(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what belongs to one machine or run: places, loggers, own callbacks.

    Every number of the network is in the folder, so that paths of parts' weights are never opened.
    """
    kept = {key: without_places(config[key]) for key in KEPT if config.get(key) is not None}
    plain = {k: v for k, v in kept.get("trainer", {}).items() if isinstance(v, int | float) and not isinstance(v, bool)}
    kept["trainer"] = {k: v for k, v in plain.items() if k not in ("devices", "num_nodes")} | {
        key: kept["trainer"][key] for key in ("precision", "check_val_every_n_epoch") if key in kept.get("trainer", {})
    }
    kept["model"]["weights"] = None
    return kept


def without_places(value: Any) -> Any:
    """Paths, which tell of somebody's machine and exist nowhere else, by their last part alone.

    Of words with a slash that may be a hub's (`owner/name`), those are paths which begin like one or are there.
    """
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and is_place(value) else value


def is_place(text: str) -> bool:
    """Whether a value of a configuration is a path of this machine."""
    if text.startswith(("/", "~", "./", "../")):
        return True
    try:
        return "/" in text and Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return False


def upload(folder: Path, name: str, private: bool) -> str:
    """Onto the hub; returns the address.

    Raises:
        HubError: the hub refuses; says what it says.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        place = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=place.repo_id, folder_path=folder, allow_patterns=list(FILES))
    except (HfHubHTTPError, OSError) as error:
        raise HubError(f"{name}: the hub refuses: {str(error).splitlines()[0]}; the folder {folder} is made") from error
    return str(place)

"""`rvos pull`: a pushed system from the hub or a folder, looked through before anything of it is used."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rvos_lightning.data.whole import WriteError, whole_folder
from rvos_lightning.run.hub_folder import FILES, NAME, PULLED, HubError, check, is_hub_folder


def main(words: Sequence[str]) -> int:
    """Fetch, look through, say how to use it; returns the exit status (2: refused)."""
    parser = argparse.ArgumentParser(prog="rvos pull", description=__doc__)
    parser.add_argument("name", help="owner/name on the hub (with --hub), or a folder made by rvos push")
    parser.add_argument("--out", type=Path, default=PULLED, help="the folder is put beneath (hub)")
    parser.add_argument("--revision", help="a commit or tag of the hub's repository")
    parser.add_argument("--hub", action="store_true", help="reach the hub; without it only folders are taken")
    parser.add_argument("--trust", action="store_true", help="the configuration may name foreign classes")
    options = parser.parse_args(list(words))
    try:
        folder = pull(options)
    except (HubError, WriteError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{folder}\n  rvos predict --run {folder} --data VideoFiles --data.path x.mp4 --data.expressions 'the horse'")
    return 0


def pull(options: argparse.Namespace) -> Path:
    """The folder, complete and looked through.

    Raises:
        HubError: nothing there, incomplete, foreign, or another of that name is there.
    """
    source = Path(options.name)
    if is_hub_folder(source):
        check(source, options.trust)
        if source.resolve().parent in ((options.out).resolve(), (options.out / source.parent.name).resolve()):
            return source
        folder = options.out / source.name
        _free(folder)
        with whole_folder(folder) as partial:
            shutil.copytree(source, partial, ignore=lambda _, names: [n for n in names if not known(n)])
        return folder
    if not NAME.fullmatch(options.name):
        raise HubError(f"{options.name}: no folder made by rvos push, and no name of the form owner/name")
    if not options.hub:
        raise HubError(f"{options.name}: no such folder; to fetch it from the hub give --hub")
    folder = options.out / options.name
    _free(folder)
    return fetch(options.name, options.revision, folder, options.trust)


def fetch(name: str, revision: str | None, folder: Path, trust: bool) -> Path:
    """Download into a folder beside, and move it once it has been looked through.

    Raises:
        HubError: the hub refuses, or what came is incomplete or foreign.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    partial = folder.with_name(folder.name + ".partial")  # kept, so that another attempt goes on
    try:
        snapshot_download(name, revision=revision, local_dir=partial, allow_patterns=list(FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise HubError(f"{name}: the hub refuses: {str(error).splitlines()[0]}") from error
    if not is_hub_folder(partial):
        raise HubError(f"{name}: no config.yaml or model.safetensors in it: not made by rvos push")
    check(partial, trust)
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    partial.rename(folder)
    return folder


def known(name: str) -> bool:
    """Whether a file is of those that make up such a folder."""
    from fnmatch import fnmatch

    return any(fnmatch(name, pattern) for pattern in FILES)


def _free(folder: Path) -> None:
    if folder.exists():
        raise HubError(f"{folder} is there already: remove it, or give another --out")

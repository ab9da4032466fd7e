"""Disks that are full or cannot be written to: one clear error, and what was there stays whole."""

import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_kills import TARGETS, archive, checkpoint, digest, film, table

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.sources.table_file import cache_path, write_whole
from rvos_lightning.data.whole import WriteError, whole_folder
from rvos_lightning.run.checkpoints import CheckpointError

Write = Callable[[Path, int], Path]
WRITES = [checkpoint, film, archive, table]


def mount(*words: object) -> bool:
    """Whether the system did what was asked."""
    try:
        return subprocess.run(["mount", *map(str, words)], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB of its own; skips where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", place):
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], capture_output=True, timeout=20)


def fill(disk: Path, left: int = 0) -> Path:
    """A file that takes all room but `left` bytes."""
    filler = disk / "filler"
    facts = os.statvfs(disk)
    with filler.open("wb") as file:
        try:
            file.write(bytes(max(0, facts.f_bavail * facts.f_frsize - left)))
        except OSError:
            file.close()
    return filler


@pytest.mark.parametrize("left", [0, 4096, 65536])
@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_is_named_and_keeps_what_was_there(
    write: Callable[[Path, int], Path], left: int, disk: Path
) -> None:
    before = digest(write(disk, 1))
    filler = fill(disk, left)
    try:
        write(disk, 2)
    except (DataError, CheckpointError) as error:
        assert str(error).count("\n") < 5 and str(disk) in str(error)
        assert "No space left" in str(error) or "no room left" in str(error)
        if write is not archive:  # its pictures are files of their own, and what is written of them is valid
            assert digest(disk / TARGETS[write.__name__]) == before
        assert not [path for path in disk.rglob("*") if "partial" in path.name and write is not film]
    else:
        assert left  # the rest was enough
    filler.unlink()
    assert digest(write(disk, 1)) == before


@pytest.mark.parametrize("write", WRITES)
def test_a_read_only_disk_is_named(write: Write, disk: Path) -> None:
    before = digest(write(disk, 1))
    assert mount("-o", "remount,ro", disk)
    with pytest.raises((DataError, CheckpointError), match="Read-only file system") as caught:
        write(disk, 2)
    assert str(disk) in str(caught.value) and str(caught.value).count("\n") < 5
    assert digest(disk / TARGETS[write.__name__]) == before


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_what_has_no_room_beside_the_data_goes_to_the_users_cache(kind: str, disk: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    source = disk / "annotations.json"
    source.write_text("{}")
    wanted = cache_path([source], ".rles")
    assert wanted.is_relative_to(disk)
    if kind == "full":
        fill(disk)
        with pytest.warns(UserWarning, match=r"not writable or full; kept in .*home"):
            place = write_whole(wanted, lambda file: file.write(bytes(1 << 20)))
    else:
        assert mount("-o", "remount,ro", disk)
        place = write_whole(cache_path([source], ".rles"), lambda file: file.write(bytes(1 << 20)))
    assert place.is_relative_to(tmp_path / "home") and place.stat().st_size == 1 << 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache_path([source], ".rles") == place  # found again
    assert [path.name for path in disk.rglob("*.rles*")] == []


def test_what_a_kill_leaves_is_gone_after_the_next_attempt(tmp_path: Path) -> None:
    archive(tmp_path, 1)
    masks = tmp_path / "masks"
    folder = next(path.parent for path in masks.rglob("*.png"))
    for name in (".00001.partial.png", ".99999.partial.png"):
        (folder / name).write_bytes(b"half")
    archive(tmp_path, 1)
    assert not list(masks.rglob(".*"))
    old, young = tmp_path / ".a.rles.12.ab", tmp_path / ".a.rles.13.ab"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    write_whole(tmp_path / "a.rles", lambda file: file.write(b"whole"))
    assert not old.exists() and young.exists() and (tmp_path / "a.rles").read_bytes() == b"whole"


def test_a_file_that_may_not_be_read_is_not_said_to_be_the_one_that_is_written(tmp_path: Path) -> None:
    for place, kind in [("else/where", PermissionError), ("here/other", WriteError), ("here", WriteError)]:
        with pytest.raises(kind), whole_folder(tmp_path / "here" / "new"):
            raise PermissionError(13, "Permission denied", str(tmp_path / place))
    with pytest.raises(WriteError), whole_folder(tmp_path / "here" / "new"):
        raise OSError(28, "No space left on device", str(tmp_path / "else/where"))  # a copy names its source


def test_a_verb_without_a_run_says_it_in_one_line(disk: Path, capsys: pytest.CaptureFixture) -> None:
    from rvos_lightning.run.cli import main

    assert mount("-o", "remount,ro", disk)
    with pytest.raises(SystemExit) as caught:
        main(["sample", "--layout", "mevis", "--out", str(disk / "new")])
    assert str(caught.value.code).startswith(f"error: {disk / 'new'}: cannot be written (Read-only file system)")

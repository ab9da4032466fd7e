"""The doctor's checks that are common to all readers."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from itertools import combinations
from pathlib import Path

from rvos_lightning.data.problems import Problem
from rvos_lightning.data.reader import DataError, Item, Reader, Video
from rvos_lightning.data.readers.file_reader import FileReader, misfit

BLOCKS = ("train", "validate", "submit")  # narrowed to what the split is used for


def examine(reader: Reader, fast: bool, pool: Executor) -> Iterator[list[Problem]]:
    """Problems of the split as a whole, then of each video; `fast` reads names and headers only."""
    try:
        own = list(reader.problems(fast))
    except Exception as error:  # as below: a finding, not the doctor's end
        what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        own = [Problem(f"{reader.name} {reader.split}", what, "Get these files again, or report this.", BLOCKS)]
    if not len(reader.items):
        what = "nothing in it: no expression or object"
        own.append(Problem(f"{reader.name} {reader.split}", what, "Check the split's name and its files.", BLOCKS))
    yield [*count_problems(reader), *own]
    by_video: dict[int, list[Item]] = {}
    for item in reader.items:
        by_video.setdefault(item.video, []).append(item)
    seen: Counter[str] = Counter(video.id for video in reader.videos)
    for index, video in enumerate(reader.videos):
        items = by_video.get(index, [])
        found = list(item_problems(video, items))
        if seen[video.id] > 1:
            found.append(Problem(f"video {video.id}", f"listed {seen[video.id]} times", "Ids must be unique.", BLOCKS))
        try:
            if isinstance(reader, FileReader):
                found += video_problems(reader, video, items, fast, pool)
            else:
                found += frames_read(reader, index, fast)
        except Exception as error:  # whatever a damaged file makes a library raise is a finding of its video
            what = f"{type(error).__name__}: {error}"
            found.append(Problem(f"video {video.id}", what, "Get this video's files again, or report this.", BLOCKS))
        yield found


def masks_counted(reader: Reader) -> str:
    """How many masks there are where frames need none, so that a lost one shows in the numbers; else nothing."""
    truth = reader.truth if isinstance(reader, FileReader) else None
    try:
        counts = {} if truth is None else {video.id: truth.counted(video) for video in reader.videos}
    except Exception:  # the examination of its video says what is wrong with it
        return ""
    known = {name: count for name, count in counts.items() if count is not None}
    if not known:
        return ""
    least = min(known, key=known.__getitem__)
    return f", {sum(known.values())} masks (fewest: {known[least]} in {least})"


def frames_read(reader: Reader, video: int, fast: bool) -> Iterator[Problem]:
    """Frames that cannot be read; the first only if `fast`."""
    record = reader.videos[video]
    for position in range(1 if fast else len(record.frames)):
        try:
            reader.read_frames(video, [position])
        except DataError as error:
            yield Problem(f"video {record.id}, frame {record.frames[position]}", str(error), "", BLOCKS)


def count_problems(reader: Reader) -> Iterator[Problem]:
    """Numbers that differ from the published ones; a subset of one's own may, so nothing is blocked."""
    expected = reader.counts.get(reader.split)
    if expected is None:
        return
    references = len({item.facts.reference for item in reader.items}) if expected.references else 0
    found = {"videos": len(reader.videos), "items": len(reader.items), "references": references}
    for name, number in found.items():
        published = getattr(expected, name)
        if published and number not in published:
            what = f"{number} {name}; published: {' or '.join(map(str, published))} ({expected.source})"
            remedy = "Scores are not comparable with published ones; get the rest, or ignore this for a subset."
            yield Problem(f"{reader.name} {reader.split}", what, remedy)


def item_problems(video: Video, items: list[Item]) -> Iterator[Problem]:
    """Ids used twice, empty expressions, videos without items or frames."""
    if not video.frames:
        yield Problem(f"video {video.id}", "has no frames", "Unpack its frames again.", BLOCKS)
    if not items:
        yield Problem(f"video {video.id}", "nothing refers to it", "Harmless; it is never read.")
    for key, count in Counter(item.id for item in items).items():
        if count > 1:
            what = f"id {key} is used {count} times"
            yield Problem(
                f"video {video.id}", what, "One would overwrite the other's result; get the file again.", BLOCKS
            )
    for item in items:
        if item.expression is not None and not item.expression.strip():
            remedy = "Remove it, or get the annotation file again."
            yield Problem(f"video {video.id}, item {item.id}", "empty expression", remedy, BLOCKS)


def video_problems(
    reader: FileReader, video: Video, items: list[Item], fast: bool, pool: Executor
) -> Iterator[Problem]:
    """Missing and unreadable frames, sizes that change, masks that are missing, unreadable or do not fit."""
    try:
        lost = reader.frames.missing(video)
    except DataError as error:
        yield Problem(f"video {video.id}", str(error), "", BLOCKS)
        return
    if lost:
        what = f"{len(lost)} of {len(video.frames)} frames missing, the first: {lost[0]}"
        yield Problem(f"video {video.id}", what, "Unpack the frames again, or check `root`.", BLOCKS)
        return
    if not video.frames:
        return

    def look(position: int) -> tuple[int, int] | Problem:
        try:
            return reader.frames.check(video, position, fast)
        except DataError as error:
            return Problem(f"video {video.id}, frame {video.frames[position]}", str(error), "", BLOCKS)

    looked = list(pool.map(look, range(1 if fast else len(video.frames))))
    yield from (each for each in looked if isinstance(each, Problem))
    sizes = sorted({each for each in looked if not isinstance(each, Problem)})
    if len(sizes) > 1:
        yield Problem(f"video {video.id}", f"frames of different sizes: {sizes}", "Unpack the frames again.", BLOCKS)
    if not sizes:
        return
    if video.size is not None and tuple(video.size) != sizes[0]:
        yield Problem(f"video {video.id}", misfit("annotations", video.size, sizes[0]), "", BLOCKS)
        return
    if reader.truth is not None:
        yield from reader.truth.check_video(video, [item for item in items if item.objects is not None], sizes[0], fast)


def leaks(readers: Mapping[str, Reader]) -> Iterator[tuple[str, str, Problem]]:
    """Videos that are in two splits of which one is trained on."""
    for one, other in combinations(sorted(readers), 2):
        if "train" not in (one, other):
            continue
        shared = {video.id for video in readers[one].videos} & {video.id for video in readers[other].videos}
        if shared:
            what = f"{len(shared)} videos are in both, e.g. {min(shared)}"
            remedy = "Do not report scores on them after training on them."
            yield one, other, Problem(f"splits {one} and {other}", what, remedy)


def digest(reader: Reader, fast: bool, limit: int = 64 << 20) -> str:
    """A few characters that tell the annotation files' content; big files only if not `fast`."""
    total = hashlib.sha256()
    files = [Path(str(path)) for path in getattr(reader, "files", ())]
    for path in files:
        if fast and path.stat().st_size > limit:
            return ""
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return f", annotations sha256 {total.hexdigest()[:12]}" if files else ""

"""Reading the JSON files data sets come with: whole, or element by element when they are too big to hold.

A name taken from such a file is not trusted: `safe_path` refuses what would leave the data root.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from rvos_lightning.data.errors import DataError

CHUNK = 1 << 22  # characters read at a time when streaming
WHITE = " \t\r\n"
PLAIN = re.compile(r"(?:\w[\w.-]*/)*\w[\w.-]*", re.ASCII)
"""Paths in normal form whose parts begin with a letter, digit or underscore."""


def safe_path(relative: str, source: str | Path) -> str:
    """`relative` in normal form, if it stays below the folder it will be joined to.

    Raises:
        DataError: it is empty, absolute, climbs with "..", or holds a backslash, a drive letter or a NUL.
    """
    if PLAIN.fullmatch(relative):  # nearly all; a hundred thousand frames are listed before training starts
        return relative
    path = PurePosixPath(relative)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or any(sign in relative for sign in ("\\", "\0")):
        raise DataError(f"{source}: the path {relative!r} would leave the data root; paths must be relative and plain.")
    if len(parts[0]) > 1 and parts[0][1] == ":":
        raise DataError(f"{source}: the path {relative!r} names a drive; paths must be relative and plain.")
    return str(path)


def read_json(path: Path) -> Any:
    """The whole content of a JSON file.

    Raises:
        DataError: missing, not JSON, a key twice in one object, or a number that is not finite.
    """
    return parse_json(_read(path), path)


def parse_json(content: bytes, place: str | Path) -> Any:
    """What the bytes of a JSON file say.

    Raises:
        DataError: as `read_json`.
    """
    text = _decode(content, place)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        pointer = text.startswith("version https://git-lfs")
        why = (
            "a Git-LFS pointer; run `git lfs pull` in its repository" if pointer else "cut off or damaged; get it again"
        )
        raise DataError(f"{place}: not valid JSON ({error}). The file is {why}.") from error
    except RecursionError as error:
        raise DataError(f"{place}: nested too deep for data. The file is damaged; get it again.") from error
    except ValueError as error:
        raise DataError(f"{place}: {error}.") from error


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 file, with or without the mark that some editors put in front.

    Raises:
        DataError: missing, unreadable, or not UTF-8.
    """
    return _decode(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing. Put the file there or point `root` at the right folder.") from error
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}). Check the path and its permissions.") from error


def _decode(content: bytes, place: str | Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text ({error}). Save it as UTF-8, or get it again.") from error


def require(record: Any, field: str, kind: type | tuple[type, ...], place: str) -> Any:
    """`record[field]`, checked to be of a kind.

    Raises:
        DataError: names the place, the field and what was found instead.
    """
    names = kind.__name__ if isinstance(kind, type) else " or ".join(each.__name__ for each in kind)
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected an object with field {field!r}, found {type(record).__name__}.")
    if field not in record:
        raise DataError(f"{place}: field {field!r} is missing (expected {names}); fields: {sorted(record)[:8]}.")
    value = record[field]
    boolean = isinstance(value, bool) and bool not in (kind if isinstance(kind, tuple) else (kind,))
    if boolean or not isinstance(value, kind):
        raise DataError(f"{place}: field {field!r} must be {names}, found {type(value).__name__} ({str(value)[:40]}).")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} occurs twice in one object; one of the two would be lost silently")
    return table


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds the number {name}, which is not JSON")


class JsonStream:
    """Walks a JSON file of any size with a small buffer: `members` of the top-level object, `elements` of an array."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet; each walk opens the file anew."""
        self.path = path

    def members(self, arrays: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
        """(key, value) pairs of the top-level object in file order.

        Arrays under the keys `arrays` are not held whole: each element comes as a pair of its own.

        Raises:
            DataError: the file is missing, cut off, not an object, or repeats a key.
        """
        if not self.path.is_file():
            raise DataError(f"{self.path}: missing. Put the file there or point `root` at the right folder.")
        with self.path.open(encoding="utf-8-sig") as file:
            buffer = _Buffer(file, self.path)
            buffer.expect("{")
            seen: set[str] = set()
            if buffer.peek() == "}":
                return
            while True:
                key = buffer.value()
                if not isinstance(key, str) or key in seen:
                    raise DataError(f"{self.path}: the key {key!r} occurs twice or is no text; ids must be unique.")
                seen.add(key)
                buffer.expect(":")
                if key in arrays and buffer.peek() == "[":
                    yield from ((key, element) for element in buffer.elements())
                else:
                    yield key, buffer.value()
                if buffer.expect(",}") == "}":
                    return


class _Buffer:
    """A window of text over an open file; `start` is the next unread character."""

    def __init__(self, file: Any, path: Path) -> None:
        self.file, self.path = file, path
        self.text, self.start, self.ended = "", 0, False
        self.decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)

    def more(self) -> None:
        """Appends a chunk, dropping what was read; refuses to read on after the end."""
        if self.ended:
            raise DataError(f"{self.path}: ends too early. The file is cut off; get it again.")
        # grow with what is already held, so that one huge value costs a logarithmic number of attempts
        try:
            chunk = self.file.read(max(CHUNK, len(self.text) - self.start))
        except (UnicodeDecodeError, OSError) as error:
            raise DataError(f"{self.path}: not UTF-8 text ({error}). Download it again.") from error
        self.ended = not chunk
        self.text, self.start = self.text[self.start :] + chunk, 0

    def peek(self) -> str:
        """The next character that is not white space."""
        while True:
            while self.start < len(self.text) and self.text[self.start] in WHITE:
                self.start += 1
            if self.start < len(self.text):
                return self.text[self.start]
            self.more()

    def expect(self, signs: str) -> str:
        """Reads one of `signs`."""
        found = self.peek()
        if found not in signs:
            raise DataError(f"{self.path}: expected one of {signs!r}, found {found!r}. The file is not as published.")
        self.start += 1
        return found

    def value(self) -> Any:
        """Reads one JSON value whole."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.start)
                if end == len(self.text) and not self.ended:  # a number may go on in the next chunk
                    self.more()
                    continue
            except json.JSONDecodeError as error:
                if self.ended:
                    raise DataError(
                        f"{self.path}: not valid JSON ({error}). The file is damaged; get it again."
                    ) from error
                self.more()
                continue
            except RecursionError as error:
                raise DataError(f"{self.path}: nested too deep for data. The file is damaged; get it again.") from error
            except ValueError as error:
                raise DataError(f"{self.path}: {error}.") from error
            self.start = end
            return value

    def elements(self) -> Iterator[Any]:
        """Reads an array element by element."""
        self.expect("[")
        if self.peek() == "]":
            self.expect("]")
            return
        while True:
            yield self.value()
            if self.expect(",]") == "]":
                return

"""Reads the `refs(...).p` files of the refer API as what they are, plain data, without running anything in them.

Loading a pickle executes whatever it says, and these files come from mirrors of mirrors. So no unpickler is used:
the standard library's disassembler splits the file into instructions, and the thirty or so that only build lists,
dictionaries, text and numbers are carried out here. Everything else, above all whatever could import, call, or
refer outside, is refused with its place in the file.
"""

import io
import json
import pickletools
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rvos_lightning.data.limits import limit
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.annotation_files import read_json
from rvos_lightning.data.sources.table_file import cache_path, write_whole

shorten = reprlib.repr  # a few lists of lists can say terabytes of text

CODE = frozenset(
    "GLOBAL STACK_GLOBAL INST OBJ NEWOBJ NEWOBJ_EX REDUCE BUILD EXT1 EXT2 EXT4 PERSID BINPERSID NEXT_BUFFER "
    "READONLY_BUFFER".split()
)
"""Instructions that can import, call, build objects, or refer outside the file."""

SCALARS = frozenset("INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT".split())
TEXTS = frozenset("STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split())
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
MARK = object()


class Refusal(DataError):
    """A file that is not plain data; nothing in it was executed."""


def read_plain_pickle(path: Path) -> Any:
    """The lists, dictionaries, text, numbers and constants in a pickle of any protocol.

    Raises:
        Refusal: anything else is in it, or it is damaged, too big, or too deep; names byte and instruction.
        DataError: there is no such file.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= limit("pickle_bytes") else None
    except OSError as error:
        raise DataError(
            f"{path}: missing or unreadable ({error.strerror}). Put the file there or check `root`."
        ) from error
    if data is None:
        raise Refusal(
            f"{path.name}: larger than {limit('pickle_bytes') >> 20} MiB; such files are a few MB. Get a clean copy."
        )
    return _Plain(path.name).run(data)


class _Plain:
    """A stack machine for the data-only part of the pickle language."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.depth: dict[int, int] = {}  # by id of a list or dictionary; all are kept alive until the end
        self.kept: list[Any] = []
        self.steps: dict[str, Callable[[Any], None]] = {
            "EMPTY_LIST": lambda _: self.push([]),
            "EMPTY_DICT": lambda _: self.push({}),
            "EMPTY_TUPLE": lambda _: self.push([]),
            "MARK": lambda _: self.stack.append(MARK),
            "LIST": lambda _: self.push_filled([], self.marked()),
            "TUPLE": lambda _: self.push_filled([], self.marked()),
            "TUPLE1": lambda _: self.push_filled([], self.last(1)),
            "TUPLE2": lambda _: self.push_filled([], self.last(2)),
            "TUPLE3": lambda _: self.push_filled([], self.last(3)),
            "DICT": lambda _: self.push_filled({}, self.marked()),
            "APPEND": lambda _: self.fill(self.last(1)),
            "APPENDS": lambda _: self.fill(self.marked()),
            "SETITEM": lambda _: self.fill(self.last(2)),
            "SETITEMS": lambda _: self.fill(self.marked()),
            "PUT": lambda key: self.memo.__setitem__(key, self.top()),
            "BINPUT": lambda key: self.memo.__setitem__(key, self.top()),
            "LONG_BINPUT": lambda key: self.memo.__setitem__(key, self.top()),
            "MEMOIZE": lambda _: self.memo.__setitem__(len(self.memo), self.top()),
            "GET": lambda key: self.stack.append(self.memo[key]),
            "BINGET": lambda key: self.stack.append(self.memo[key]),
            "LONG_BINGET": lambda key: self.stack.append(self.memo[key]),
            "POP": lambda _: self.last(1) and None,
            "POP_MARK": lambda _: self.marked() and None,
            "DUP": lambda _: self.stack.append(self.top()),
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
        }

    def run(self, data: bytes) -> Any:
        """Carries out the instructions up to STOP, which must end the file."""
        place, stream = 0, io.BytesIO(data)
        try:
            for opcode, argument, position in pickletools.genops(stream):
                place = position or 0
                if opcode.name == "STOP":
                    break
                self.step(opcode.name, argument, place)
        except Refusal:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError, OverflowError) as error:
            raise Refusal(
                f"{self.name}: damaged at or after byte {place} ({error}). Obtain a clean copy or the JSON form. "
                "Nothing was executed."
            ) from error
        if stream.tell() != len(data):
            raise self.refusal(stream.tell(), "bytes after STOP", None, "it goes on after its end")
        if len(self.stack) != 1:
            raise self.refusal(place, "STOP", None, f"{len(self.stack)} values are left")
        return self.stack[0]

    def step(self, name: str, argument: Any, place: int) -> None:
        """Carries out one instruction."""
        if name in TEXTS:
            self.stack.append(_text(name, argument))
        elif name in SCALARS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in self.steps:
            self.steps[name](argument)
        elif name in CODE:
            raise self.refusal(place, name, argument, "this file would run code when loaded")
        else:
            raise self.refusal(place, name, argument, "reference files hold no such values")

    def refusal(self, place: int, name: str, argument: Any, why: str) -> Refusal:
        """The error for one instruction."""
        said = "" if argument is None else f" {str(argument)[:80]!r}"
        return Refusal(
            f"{self.name}: refused at byte {place}, opcode {name}{said}: {why}. RefCOCO reference files contain plain "
            "data only; obtain a clean copy or the JSON form. Nothing was executed."
        )

    def top(self) -> Any:
        """The value on top of the stack."""
        if self.stack[-1] is MARK:
            raise ValueError("a mark where a value should be")
        return self.stack[-1]

    def last(self, count: int) -> list[Any]:
        """Takes values off the stack."""
        values = self.stack[-count:]
        if len(values) < count or any(value is MARK for value in values):
            raise ValueError("too few values on the stack")
        del self.stack[-count:]
        return values

    def marked(self) -> list[Any]:
        """Takes the values above the last mark off the stack, and the mark."""
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not MARK:
            at -= 1
        if at < 0:
            raise ValueError("no mark on the stack")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def push(self, container: list[Any] | dict[Any, Any]) -> None:
        """Puts an empty list or dictionary on the stack."""
        self.stack.append(container)
        self.kept.append(container)
        self.depth[id(container)] = 1

    def push_filled(self, container: list[Any] | dict[Any, Any], values: list[Any]) -> None:
        """Puts a list or dictionary with content on the stack."""
        self.push(container)
        self.fill(values)

    def fill(self, values: list[Any]) -> None:
        """Adds values to the list, or keys and values to the dictionary, on top of the stack."""
        container = self.top()
        if isinstance(container, list):
            container.extend(values)
        elif isinstance(container, dict) and len(values) % 2 == 0:
            keys = values[::2]
            if not all(isinstance(key, str) for key in keys):
                raise ValueError("a dictionary key that is no text")
            container.update(zip(keys, values[1::2], strict=True))
        else:
            raise ValueError("values for something that is neither list nor dictionary")
        depth = 1 + max((self.depth.get(id(v), 0) for v in values if isinstance(v, list | dict)), default=0)
        self.depth[id(container)] = max(self.depth[id(container)], depth)
        if depth > limit("json_depth"):
            raise ValueError(f"nested deeper than {limit('json_depth')}")


def _text(name: str, argument: Any) -> str:
    if name in ("BINSTRING", "SHORT_BINSTRING"):  # Python 2 wrote bytes; the disassembler shows them as Latin-1
        return argument.encode("latin-1").decode("utf-8")
    return argument


def read_refs(path: Path, cache: Path | None = None) -> list[dict[str, Any]]:
    """The references of a `refs(...).p` or `refs(...).json`, checked field by field.

    A pickle is converted once to JSON in the cache, with its name and what was found beside the data; all other code
    reads only that.

    Raises:
        DataError: refused, or not references; names the record and field.
    """
    if path.suffix == ".json":
        return _checked(read_json(path), path)
    kept = cache_path([path], ".json", cache, tag="refs")
    if not kept.is_file():
        refs = [_known(ref) for ref in _checked(read_plain_pickle(path), path)]
        content = json.dumps({"source": path.name, "bytes": path.stat().st_size, "refs": refs}).encode()
        kept = write_whole(kept, lambda file: file.write(content))
    return read_json(kept)["refs"]


MAX_SENTENCES = 10_000_000  # a small file can say the same big list a million times


def _known(ref: dict[str, Any]) -> dict[str, Any]:
    """The fields in use, as values of their own; whatever else a file holds is not carried on."""
    kept = {name: ref[name] for name in FIELDS if name != "sentences"}
    for name, kind in (("category_id", int), ("file_name", str), ("source", str)):
        if isinstance(ref.get(name), kind):
            kept[name] = ref[name]
    texts = ("sent_id", "raw", "sent")
    kept["sentences"] = [{n: s[n] for n in texts if isinstance(s.get(n), str | int)} for s in ref["sentences"]]
    return kept


FIELDS: dict[str, type | tuple[type, ...]] = {
    "ref_id": int,
    "ann_id": (int, list),
    "image_id": int,
    "split": str,
    "sentences": list,
}


def _checked(refs: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(refs, list):
        raise DataError(f"{path}: expected a list of references, found {type(refs).__name__}.")
    seen: set[int] = set()
    sentences = 0
    for number, ref in enumerate(refs):
        place = f"{path}: reference {number}"
        if not isinstance(ref, dict):
            raise DataError(f"{place}: expected a dictionary, found {type(ref).__name__}.")
        for field, kind in FIELDS.items():
            if not isinstance(ref.get(field), kind) or isinstance(ref.get(field), bool):
                raise DataError(
                    f"{place}: field {field!r} is missing or of the wrong kind ({shorten(ref.get(field))})."
                )
        sentences += len(ref["sentences"])
        if sentences > MAX_SENTENCES:
            raise DataError(f"{path}: more than {MAX_SENTENCES} sentences. Get a clean copy.")
        if isinstance(ref["ann_id"], list) and not all(isinstance(each, int) for each in ref["ann_id"]):
            raise DataError(f"{place}: field 'ann_id' must hold numbers ({shorten(ref['ann_id'])}).")
        if ref["ref_id"] in seen:
            raise DataError(f"{place}: ref_id {ref['ref_id']} occurs twice; ids must be unique.")
        seen.add(ref["ref_id"])
        if not isinstance(ref.get("sent_ids", []), list):
            raise DataError(f"{place}: field 'sent_ids' must be a list ({shorten(ref['sent_ids'])}).")
        if "sent_ids" in ref and len(ref["sent_ids"]) != len(ref["sentences"]):
            raise DataError(f"{place}: {len(ref['sent_ids'])} sent_ids for {len(ref['sentences'])} sentences.")
        for sentence in ref["sentences"]:
            sound = isinstance(sentence, dict) and isinstance(sentence.get("sent_id"), int)
            if not sound or not isinstance(sentence.get("sent", sentence.get("raw")), str):
                raise DataError(f"{place}: a sentence without `sent_id` and text ({shorten(sentence)}).")
    return refs

"""What is wrong with data on disk, in the same words for a reader that refuses and for the doctor that lists."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from rvos_lightning.data.errors import DataError

SHOWN = 5  # problems spelled out in an error before "and N more"


@dataclass(frozen=True)
class Problem:
    """One gap or fault.

    Attributes:
        place: file, folder, or field it concerns.
        what: what is wrong with it.
        remedy: what to do about it.
        blocks: what cannot be done because of it: any of "train", "validate", "submit"; empty = only worth knowing.
    """

    place: str
    what: str
    remedy: str
    blocks: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: place, fault, consequence, remedy."""
        blocks = f"blocks {' and '.join(self.blocks)}" if self.blocks else "blocks nothing"
        return f"{self.place}: {self.what} ({blocks}). {self.remedy}"


class Refused(DataError):
    """A reader refuses a data root; carries every problem it found.

    Attributes:
        problems: all of them; the message spells out the first few.
    """

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        """Problems, or the finished message when a data-loading worker hands the error on."""
        self.problems = () if isinstance(problems, str) else tuple(problems)
        if isinstance(problems, str):
            super().__init__(problems)
            return
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"... and {len(self.problems) - SHOWN} more; `rvos check` lists all.")
        super().__init__("\n".join(lines))


def refuse_if(problems: Iterable[Problem]) -> None:
    """Raises `Refused` with every problem that blocks something; the others are for the doctor only."""
    blocking = [problem for problem in problems if problem.blocks]
    if blocking:
        raise Refused(blocking)


def told(problems: Iterable[Problem]) -> list[Problem]:
    """The problems, after `refuse_if`; those that block nothing are warnings, for data that nobody has published."""
    found = list(problems)
    refuse_if(found)
    for problem in found:
        warnings.warn(f"{problem.place}: {problem.what}. {problem.remedy}", stacklevel=2)
    return found


def blocks_of(split: str) -> tuple[str, ...]:
    """What stands still without a split, judged by its name."""
    if split.startswith("train"):
        return ("train",)
    return ("validate",) if split in ("val", "valid_u", "testA", "testB") else ("validate", "submit")

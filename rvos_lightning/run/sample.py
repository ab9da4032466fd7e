"""`rvos sample`: MovingShapes written in the official layout of another data set."""

from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """Write it; returns the exit status."""
    from rvos_lightning.data.shapes import export

    export.main(words)
    return 0

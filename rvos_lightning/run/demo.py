"""The web page, which is still to come."""

import sys
from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """Say so; exit status 1."""
    print("error: the web page does not exist yet; use `rvos predict` (rvos predict --help)", file=sys.stderr)
    return 1

"""Score tables on disk: one row a video and item."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rvos_lightning.data.whole import whole


def write_table(rows: Sequence[dict[str, Any]], path: Path | str) -> Path:
    """Write rows as CSV or parquet, by suffix; columns in order of first appearance, floats in full precision.

    Raises:
        ValueError: another suffix.
        WriteError: the disk is full or not writable; the table that was there is whole.
    """
    path = table_path(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole(path) as partial:
        if path.suffix == ".csv":
            with partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(rows)
        else:
            import pyarrow
            import pyarrow.parquet

            table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
            pyarrow.parquet.write_table(table, partial)
    return path


def table_path(path: Path | str) -> Path:
    """A place that `write_table` can write to, to be asked before hours of scoring.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: a score table is written as .csv or .parquet, not {path.suffix or 'without suffix'}")
    return path

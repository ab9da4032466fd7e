"""Score tables on disk: one row a video and item."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_table(rows: Sequence[dict[str, Any]], path: Path | str) -> Path:
    """Write rows as CSV or parquet, by suffix; columns in order of first appearance, floats in full precision.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: a score table is written as .csv or .parquet, not {path.suffix or 'without suffix'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
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
    partial.replace(path)
    return path

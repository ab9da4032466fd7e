#!/usr/bin/env bash
# numpy.searchsorted in a sorted table of fixed-width text copies the whole table when the text sought is longer than the
# table's items: both are cast to the wider type first. One look-up then costs time and memory in the table's size, not
# in its logarithm. A text that is longer than every item cannot be in the table, so asking its length first is enough.
# Where it bites: indices of file names (hundreds of thousands, memory-mapped and shared by loader workers): one question
# about a long name makes each worker hold a copy of the index for a moment.
# Source: numpy/_core/src/multiarray/item_selection.c, PyArray_SearchSorted finds the common type of table and keys and
# converts the table to it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.2.6
"$folder/venv/bin/python" - <<'PY'
import time
import tracemalloc

import numpy as np

print("numpy", np.__version__)
table = np.array([b"JPEGImages/%012x/%05d.jpg" % (i, i % 100) for i in range(400_000)])
cost = {}
for name, key in (("short", b"JPEGImages/a"), ("as long", b"J" * table.itemsize), ("longer", b"J" * (table.itemsize + 1))):
    tracemalloc.start()
    np.searchsorted(table, key)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start = time.perf_counter()
    for _ in range(20):
        np.searchsorted(table, key)
    cost[name] = (time.perf_counter() - start) / 20 * 1e6, peak / 2**20
    print(f"key {name:8s} {len(key):3d} bytes: {cost[name][0]:8.1f} us a look-up, {cost[name][1]:6.2f} MiB for a moment")
print(f"the table: {table.itemsize} bytes an item, {table.nbytes / 2**20:.1f} MiB")
assert cost["as long"][1] < 0.1, "changed: equal lengths copied nothing"
assert cost["longer"][1] > table.nbytes / 2**20, "changed: a longer key made a copy"
PY

"""Where SLURM is wanted, it must be there: these tests never pass by not running."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from cluster import Cluster, missing


def pytest_collection_modifyitems(items):
    """Minutes each, and packages to install: only `make test-slurm` and the CI want them."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slurm)
            if not os.environ.get("RVOS_TEST_SLURM"):
                item.add_marker(pytest.mark.skip(reason="a real SLURM takes minutes: make test-slurm"))


@pytest.fixture(scope="session")
def cluster():
    """A running SLURM, ended by process ids afterwards."""
    if absent := missing():
        pytest.fail(f"not installed: {', '.join(absent)}; apt-get install slurm-wlm munge")
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))
    made = Cluster(folder, nodes=6)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)

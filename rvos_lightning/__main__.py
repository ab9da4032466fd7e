"""`python -m rvos_lightning VERB ...`, the same as `rvos VERB ...`."""

from rvos_lightning.run.cli import command

if __name__ == "__main__":
    command()

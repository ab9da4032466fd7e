"""One table at start: parts, parameters, trainable, learning rate, dtype, data, licences."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from callbacks.scores import data_name
from rvos_lightning.data.lightning_module import data_of
from rvos_lightning.data.mixture import Mixture, facts_of
from rvos_lightning.data.video_data import VideoData
from rvos_lightning.run.terminal import console

if TYPE_CHECKING:
    from rich.table import Table


class StartTable(Callback):
    """Prints what is about to run and writes the same as `start.json` into the run folder.

    Below the table: the terms of code, weights and data that the recipe stands on, as parts and data modules name
    them in a class attribute `licence`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the table, now that optimizers know their rates."""
        self._show(trainer, pl_module)

    @rank_zero_only
    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from rich.table import Table

        rates = learning_rates(trainer)
        rows = [describe(name, part, rates) for name, part in parts(pl_module)]
        data = data_name(trainer, "train")
        table = Table(title=f"{type(pl_module.network).__name__} on {data}, {trainer.precision}, seed {pl_module.seed}")
        for column in ("part", "class", "parameters", "trainable", "learning rate", "dtype"):
            table.add_column(column, justify="right" if column in ("parameters", "trainable") else "left")
        for row in rows:
            table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
        out = console()
        out.print(table)
        given = gives(data_of(trainer), data)
        if given:
            out.print(source_table(given))
        terms = licences(pl_module, data_of(trainer) or trainer.datamodule)
        for licence in terms:
            out.print(f"  licence of {licence}", highlight=False)
        if said := enlarged(pl_module.network, data_of(trainer)):
            out.print(said, highlight=False)
        if trainer.fast_dev_run:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"parts": rows, "data": data, "sources": given, "licences": terms, "precision": str(trainer.precision)}
        (folder / "start.json").write_text(json.dumps(record, indent=2) + "\n")


def enlarged(network: Any, data: VideoData | None) -> str:
    """What to say of a segmenter that blows small frames up, for nothing but time and memory; else nothing."""
    side = getattr(getattr(network, "segmenter", None), "image_size", None)
    frame = 0 if data is None else max(data.framing.size)
    if not isinstance(side, int) or not 0 < 4 * frame <= side:
        return ""
    return (
        f"  frames of {frame} pixels are enlarged to {side}, {(side // frame) ** 2} times the memory: "
        f"--model.network.segmenter.image_size {frame} (or larger --data.size) spares it"
    )


def gives(data: VideoData | None, name: str) -> dict[str, dict[str, Any]]:
    """What each source of the data gives to the training, by its name; a single data set is its own source."""
    if data is None:
        return {}
    return (
        data.shares() if isinstance(data, Mixture) else {name: facts_of(data, data.train_clips(), data.opened("val"))}
    )


def source_table(given: dict[str, dict[str, Any]]) -> "Table":
    """A row a source."""
    from rich.table import Table

    columns = list(next(iter(given.values())))
    table = Table("source", *columns)
    for name, row in given.items():
        shown = (
            f"{row[c]:.1%}" if c == "share" else f"{row[c]:,}" if isinstance(row[c], int) else row[c] for c in columns
        )
        table.add_row(name, *shown)
    return table


def parts(pl_module: LightningModule) -> list[tuple[str, nn.Module]]:
    """The network's direct children, then the network as a whole."""
    network: Any = pl_module.network
    return [*network.named_children(), ("total", network)]


def licences(pl_module: LightningModule, data: object) -> list[str]:
    """What parts of the network and the data (each set of a mixture) say of their terms, without repetition."""
    sets = data.sources.values() if isinstance(data, Mixture) else [data]
    sources = [*pl_module.network.modules(), *sets]
    named = (getattr(source, "licence", None) for source in sources)
    return list(dict.fromkeys(text for text in named if isinstance(text, str)))


def learning_rates(trainer: Trainer) -> dict[int, float]:
    """Parameter identity -> learning rate."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {id(parameter): group.get("initial_lr", group["lr"]) for group in groups for parameter in group["params"]}


def describe(name: str, part: nn.Module, rates: dict[int, float]) -> dict[str, Any]:
    """One row."""
    parameters = list(part.parameters())
    used = sorted({rates[id(p)] for p in parameters if id(p) in rates})
    return {
        "part": name,
        "class": type(part).__name__,
        "parameters": sum(map(numbers, parameters)),
        "trainable": sum(numbers(p) for p in parameters if p.requires_grad),
        "learning rate": " / ".join(f"{rate:.2g}" for rate in used) or "-",
        "dtype": " ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})) or "-",
    }


def numbers(parameter: nn.Parameter) -> int:
    """How many numbers a whole parameter holds; ZeRO-3 leaves an empty one behind and notes its size in `ds_numel`."""
    return getattr(parameter, "ds_numel", parameter.numel())

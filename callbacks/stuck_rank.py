"""Names the process that everybody waits for."""

import json
import os
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer


class StuckRank(Callback):
    """Every rank notes in a shared table where it is; one that sees no progress prints who is behind.

    Collectives wait without a word for a rank that does not come. A thread of each process watches its own: after
    `quiet` seconds at one place it reads the table, so that every rank's log names the one that is missing. The
    strategy's `timeout` then ends the run.

    Args:
        quiet: seconds at one place before the table is printed; choose less than the strategy's timeout.
    """

    def __init__(self, quiet: float = 240):
        self.quiet = quiet
        self._beats, self._place, self._since = 0, "set-up", time.monotonic()
        self._stop = threading.Event()
        self._server: dist.TCPStore | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the table, a key-value store served by rank 0, and start watching."""
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        host, patience = os.environ["MASTER_ADDR"], timedelta(seconds=10)
        if trainer.is_global_zero:
            self._server = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=patience)
        port = trainer.strategy.broadcast(self._server.port if self._server else None)
        table = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=patience)
        self._at("set-up")
        self._stop.clear()
        watch = (table, trainer.global_rank, trainer.world_size)
        threading.Thread(target=self._watch, args=watch, name="stuck-rank", daemon=True).start()

    def _at(self, place: str) -> None:
        self._beats, self._place, self._since = self._beats + 1, place, time.monotonic()

    def _watch(self, table: dist.TCPStore, rank: int, world: int) -> None:
        period, said = min(self.quiet / 4, 10.0), -1
        while not self._stop.wait(period):
            quiet = time.monotonic() - self._since
            note = {"beats": self._beats, "place": self._place, "seconds": round(quiet), "noted": time.time()}
            try:
                table.set(str(rank), json.dumps(note))
                if quiet >= self.quiet and said != self._beats:
                    said = self._beats
                    notes = [json.loads(table.get(str(r))) if table.check([str(r)]) else None for r in range(world)]
                    print(f"[rank {rank}] no progress for {quiet:.0f} s. {behind(notes, 4 * period)}", flush=True)
            except (dist.DistError, RuntimeError) as error:
                if quiet >= self.quiet and said != self._beats:
                    said = self._beats
                    print(f"[rank {rank}] no progress for {quiet:.0f} s; rank 0 does not answer: {error}", flush=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the batch."""
        self._at(f"the forward pass of batch {batch_idx}, epoch {trainer.current_epoch}")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """Note the backward pass."""
        self._at(f"the backward pass at step {trainer.global_step}, epoch {trainer.current_epoch}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the wait for data."""
        self._at(f"between batches {batch_idx} and {batch_idx + 1} (data, callbacks), epoch {trainer.current_epoch}")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Note the validation; ranks have different numbers of its batches, so all of it is one place."""
        place = f"validation at step {trainer.global_step}"
        if self._place == place:
            self._since = time.monotonic()
        else:
            self._at(place)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop watching."""
        self._stop.set()


def behind(notes: list[dict[str, Any] | None], silent: float) -> str:
    """One sentence on who is missing.

    Args:
        notes: each rank's last note; None where there is none.
        silent: seconds without any note after which a process counts as gone.
    """
    absent = [rank for rank, note in enumerate(notes) if note is None or time.time() - note["noted"] > silent]
    if absent:
        last = [f"rank {r}, last seen in {(notes[r] or {'place': 'set-up'})['place']}" for r in absent]
        return "Stopped or gone: " + "; ".join(last)
    known = [note for note in notes if note is not None]
    least = min(note["beats"] for note in known)
    late = [f"rank {r} in {n['place']} for {n['seconds']} s" for r, n in enumerate(known) if n["beats"] == least]
    if len(late) == len(known):
        return f"All ranks are equally far, in {known[0]['place']}: a part that only some of them ran?"
    return "Behind: " + "; ".join(late)

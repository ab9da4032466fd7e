"""Names the process that everybody waits for, and ends the others when one has died."""

import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

LOST = re.compile(r"[Cc]onnection (closed|reset)|[Bb]roken pipe|[Tt]imed out|NCCL|gloo|remote process exited")
"""What collectives say when a process that should have joined them is not there any more."""

MEANT = ("teardown", "SystemExit", "KeyboardInterrupt")
"""Ends of a process that are no failure."""

Seen = dict[int, tuple[float, float]]
"""Rank -> the time in its last note, and when this process first saw that."""


class StuckRank(Callback):
    """Every rank notes in a shared table where it is; one that sees no progress prints who is behind.

    Collectives wait without a word for a rank that does not come. A thread of each process watches its own: after
    `quiet` seconds at one place it reads the table, so that every rank's log names the one that is missing. The
    strategy's `timeout` then ends the run. A rank that has died (killed, out of memory, its node lost) notes nothing
    any more: in `fit`, where all of them wait for each other, the others name it and end, long before that timeout.

    Args:
        quiet: seconds at one place before the table is printed; choose less than the strategy's timeout. 0: never.
        gone: seconds without a note after which a rank of `fit` counts as dead; 0: wait for the strategy's timeout.
    """

    def __init__(self, quiet: float = 240, gone: float = 45):
        self.quiet, self.gone = quiet, gone
        self._beats, self._place, self._since = 0, "set-up", time.monotonic()
        self._stop = threading.Event()
        self._server: dist.TCPStore | None = None
        self._table: dist.TCPStore | None = None
        self._own, self._world = 0, 1
        self._fitting = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the table, a key-value store served by rank 0, and start watching."""
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        host, patience = os.environ["MASTER_ADDR"], timedelta(seconds=10)
        if trainer.is_global_zero:
            self._server = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=patience)
        port = trainer.strategy.broadcast(self._server.port if self._server else None)
        self._own, self._world, self._fitting = trainer.global_rank, trainer.world_size, stage == "fit"
        self._table = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=patience)
        self._at("set-up")
        self._stop.clear()
        watch = (dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=patience),)
        threading.Thread(target=self._watch, args=watch, name="stuck-rank", daemon=True).start()

    def _at(self, place: str) -> None:
        self._beats, self._place, self._since = self._beats + 1, place, time.monotonic()

    def _note(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._since)
        own = {"pid": os.getpid(), "host": socket.gethostname(), "noted": time.time(), "ended": ""}
        own["machine"] = machine()
        return {"beats": self._beats, "place": self._place, "seconds": seconds, **own}

    def _notes(self, table: dist.TCPStore) -> list[dict[str, Any] | None]:
        ranks = map(str, range(self._world))
        return [json.loads(table.get(rank)) if table.check([rank]) else None for rank in ranks]

    def _watch(self, table: dist.TCPStore) -> None:
        deadly = self.gone if self._fitting else 0.0
        period, said, heard = min(10.0, self.quiet / 4 or 10.0, deadly / 4 or 10.0), -1, time.monotonic()
        seen: Seen = {}
        while not self._stop.wait(period):
            quiet = time.monotonic() - self._since
            try:
                table.set(str(self._own), json.dumps(self._note()))
                notes = self._notes(table)
                heard = time.monotonic()
                if quiet >= self.quiet > 0 and said != self._beats:
                    said = self._beats
                    print(f"[rank {self._own}] no progress for {quiet:.0f} s. {behind(notes, 4 * period)}", flush=True)
                if deadly and (dead := self._dead(notes, seen)):
                    self._end(dead)
            except (dist.DistError, RuntimeError) as error:
                if quiet >= self.quiet > 0 and said != self._beats:
                    said = self._beats
                    print(
                        f"[rank {self._own}] no progress for {quiet:.0f} s; rank 0 does not answer: {error}", flush=True
                    )
                if deadly and time.monotonic() - heard > deadly:
                    self._end(f"rank 0 has not answered for {time.monotonic() - heard:.0f} s")

    def _dead(self, notes: list[dict[str, Any] | None], seen: Seen) -> str:
        """Who is not there any more, in words; a rank that has noted nothing yet is still starting.

        Args:
            notes: each rank's last one.
            seen: when each rank's note changed, by this machine's clock; filled.
        """
        found = []
        for rank, note in enumerate(notes):
            if note is None or rank == self._own or note["ended"] in MEANT:
                continue
            if rank not in seen or seen[rank][0] != note["noted"]:
                seen[rank] = note["noted"], time.monotonic()
            who, silent = f"rank {rank} (process {note['pid']} on {note['host']})", time.monotonic() - seen[rank][1]
            if note["ended"]:
                found.append(f"{who} has ended by {note['ended']} in {note['place']}; see its own message")
            elif silent > self.gone or not alive(note):
                found.append(f"{who} has died in {note['place']}: killed, out of memory, or its machine is lost")
        return "; ".join(found)

    def _end(self, why: str) -> None:
        """End this process: its main thread waits in a collective that nobody will ever join."""
        if self._stop.wait(2):  # it has got out by itself
            return
        print(f"[rank {self._own}] {why}: ending, too. Go on with --ckpt_path last", file=sys.stderr, flush=True)
        os._exit(1)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Where a collective has failed, say which rank is not there any more."""
        if self._table is None:
            return
        self._leave(type(exception).__name__)
        seen: Seen = {}
        deadline, why = time.monotonic() + self.gone, ""
        while not why and time.monotonic() < deadline and LOST.search(str(exception)):
            try:
                why = self._dead(self._notes(self._table), seen)
            except (dist.DistError, RuntimeError):
                why = "rank 0 does not answer, it has died"
            time.sleep(0 if why else 1)
        if why:
            print(f"[rank {self._own}] {why}. Go on with --ckpt_path last", file=sys.stderr, flush=True)

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
        """Stop watching, and say that the end to come is meant."""
        self._leave("teardown")

    def _leave(self, how: str) -> None:
        """This process is awake and leaves: it needs no watching, and is not to be taken for dead."""
        self._stop.set()
        if self._table is not None:
            with suppress(dist.DistError, RuntimeError):  # rank 0 may have ended before
                self._table.set(str(self._own), json.dumps({**self._note(), "ended": how}))


def machine() -> str:
    """Where a process number means the same process: one start of a machine, one container's view of it.

    Names of hosts do not tell: containers share their host's, and clusters exist in which every node is `localhost`.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def alive(note: dict[str, Any]) -> bool:
    """Whether the process that noted something is still there, as far as can be seen from this machine."""
    if note["machine"] != machine():
        return True
    try:
        with open(f"/proc/{note['pid']}/stat") as file:
            return file.read().rpartition(") ")[2][:1] not in ("Z", "X")
    except OSError:
        return not os.path.isdir("/proc/self")


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

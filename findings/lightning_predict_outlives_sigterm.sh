#!/usr/bin/env bash
# Lightning's Trainer catches SIGTERM in every verb, but only fit ends by it: predict goes on to its last batch and returns as
# if nothing had been asked, though trainer.received_sigterm is True from then on.
# Where it bites: a long prediction under SLURM, whose grace period ends in SIGKILL in the middle of a file.
# Source: the training loop raises SIGTERMException where the flag is set; the prediction loop does not look at it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lightning==2.6.6 torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import logging
import os
import signal

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.ones(1)), []

    def step(self, batch, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        self.seen.append(index)
        return (self.weight * batch).sum()

    training_step = predict_step = step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(verb):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    net, ended = Net(), "returned"
    trainer = Trainer(accelerator="cpu", max_epochs=1, **quiet)
    try:
        getattr(trainer, verb)(net, DataLoader(torch.ones(6, 1)))
    except BaseException as error:
        ended = type(error).__name__
    print(f"{verb}: SIGTERM in batch 1, batches done {net.seen}, {ended}, received_sigterm {trainer.received_sigterm}")
    return net.seen, ended


print("lightning", lightning.__version__)
assert run("fit") == ([0, 1], "SIGTERMException") and run("predict") == ([0, 1, 2, 3, 4, 5], "returned"), "changed"
PY

"""Labels and loss of the Conditional Memory Encoder; DDP with uneven labels."""

from unittest.mock import MagicMock

import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch import LightningModule, Trainer

from callbacks.cme import IGNORE, CMESupervision, paper_labels, released_labels
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Prediction
from rvos_lightning.systems.samwise.outputs import SwitchedPrediction

META = ClipMeta("0", "0", ("0",), (40, 40), (40, 40))
BATCH = Batch(Clip(torch.zeros(1, 1, 3, 40, 40), torch.zeros(1, dtype=torch.long), ["a"], [META]))  # never looked at


def boxes(*areas):
    """Masks with a rectangle [y0, y1, x0, x1] each."""
    masks = torch.zeros(len(areas), 40, 40, dtype=torch.bool)
    for mask, area in zip(masks, areas, strict=True):
        if area:
            mask[area[0] : area[1], area[2] : area[3]] = True
    return masks


A, B, FAR, SPECK = (0, 10, 0, 10), (0, 10, 2, 12), (20, 30, 20, 30), (0, 2, 0, 2)


def test_labels_of_both_rules():
    memory = boxes(A, A, A, None, A, SPECK, A)
    other = boxes(A, B, FAR, None, None, SPECK, FAR)
    scores = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0])
    assert released_labels(memory, other, scores).tolist() == [0, 0, 1, IGNORE, 0, IGNORE, IGNORE]
    assert paper_labels(memory, other).tolist() == [0, 0, 1, 1, 1, 0, 1]


def prediction(memory, other, ran=None, logits=None):
    """A prediction over one item whose frames all ran."""
    frames = len(memory)
    logits = torch.zeros(1, frames, 2, requires_grad=True) if logits is None else logits
    return SwitchedPrediction(
        mask_logits=memory[None].float() * 2 - 1,
        switch_frames=tuple(range(frames)),
        switch_ran=torch.ones(1, frames, dtype=torch.bool) if ran is None else ran,
        switch_logits=logits,
        memoryless_logits=other[None].float() * 2 - 1,
        memoryless_presence_logits=torch.ones(1, frames),
    )


def test_loss_counts_labelled_frames_only():
    memory, other = boxes(A, A, None), boxes(A, FAR, None)
    logits = torch.tensor([[[1.0, 0.0], [0.5, 0.0], [9.0, -9.0]]], requires_grad=True)
    terms = CMESupervision(weight=2.0).terms(BATCH, prediction(memory, other, logits=logits))
    losses = torch.nn.functional.softplus(torch.tensor([-1.0, 0.5]))
    assert torch.isclose(terms["cme"], 2 * (losses[0] + 2 * losses[1]) / 3)
    terms["cme"].backward()
    assert logits.grad[0, 2].abs().sum() == 0
    ran = torch.tensor([[True, False, True]])
    alone = CMESupervision().terms(BATCH, prediction(memory, other, ran, logits.detach().requires_grad_()))
    assert torch.isclose(alone["cme"], losses[0])


@pytest.mark.parametrize("rule", ["released", "paper"])
def test_no_label_is_an_attached_zero(rule):
    made = prediction(boxes(None, None), boxes(None, None), ran=torch.zeros(1, 2, dtype=torch.bool))
    loss = CMESupervision(rule=rule).terms(BATCH, made)["cme"]
    loss.backward()
    assert loss == 0 and made.switch_logits.grad is not None and not made.switch_logits.grad.any()


def test_network_without_switch_is_named():
    with pytest.raises(ValueError, match="switching"):
        CMESupervision().terms(BATCH, Prediction(torch.zeros(1, 1, 2, 2)))


def test_class_balance_is_logged():
    trainer, module = MagicMock(spec=Trainer), MagicMock(spec=LightningModule)
    trainer.strategy = MagicMock()
    trainer.strategy.reduce = lambda tensor, reduce_op: tensor * 2  # two ranks alike
    module.device = "cpu"
    objective = CMESupervision()
    objective.on_train_epoch_start(trainer, module)
    objective.terms(BATCH, prediction(boxes(A, A, A, None), boxes(A, A, FAR, None)))
    objective.on_train_epoch_end(trainer, module)
    logged = module.log_dict.call_args.args[0]
    assert logged["train/cme_switch"] == pytest.approx(1 / 3)
    assert logged["train/cme_labelled"] == pytest.approx(3 / 4)


def uneven_rank(rank, file, results):
    """One of two ranks; only rank 0 has a labelled frame."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    head = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2))
    logits = head(torch.ones(1, 2, 4))
    other = boxes(FAR, FAR) if rank == 0 else boxes(None, None)
    memory = boxes(A, A) if rank == 0 else boxes(None, None)
    CMESupervision().terms(BATCH, prediction(memory, other, logits=logits))["cme"].backward()
    results.put((rank, head.module.weight.grad.tolist()))
    torch.distributed.destroy_process_group()


def test_ranks_with_and_without_labels_agree(tmp_path):
    """Two gloo processes: neither hangs, and both end with the same, finite gradient."""
    context = mp.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=uneven_rank, args=(rank, tmp_path / "store", results)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    try:
        gradients = dict(results.get(timeout=100) for _ in ranks)
    finally:
        for rank in ranks:
            rank.join(10)
            rank.kill()
    assert gradients[0] == gradients[1]
    assert torch.tensor(gradients[0]).abs().sum() > 0

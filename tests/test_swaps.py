"""Parts are swapped by one flag: widths are asked of the segmenter; what cannot fit is refused before any data."""

import re

import pytest

SAM = "rvos_lightning.parts.segmenters.sam.Sam"
FEW = [
    "--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu", "--data.batch_size", "1", "--data.clip_length", "2",
    "--data.video_length", "2", "--data.val_clips", "1", "--data.eval_batch_size", "1", "--data.items_per_video", "1",
]  # fmt: skip
SEGMENTER, ADAPTER = "--model.network.segmenter", "--model.network.adapter"
ANEW = [f"{ADAPTER}.weights", "null"]  # those of the small SAMWISE are of three stages of the small SAM 2
SWAPS = {
    "sam_i2v over edge_sam": ("sam_i2v", f"{SEGMENTER}.variant", "edge_sam", f"{SEGMENTER}.weights", "null"),
    "samwise over hiera_t": ("samwise", f"{SEGMENTER}.variant", "hiera_t", f"{SEGMENTER}.weights", "null", *ANEW),
    "tiny over an image SAM": ("tiny", SEGMENTER, SAM, f"{SEGMENTER}.variant", "small"),
    "sa2va over another SAM 2": ("sa2va", f"{SEGMENTER}.variant", "hiera_t", f"{SEGMENTER}.weights", "null"),
    "sa2va over an image SAM": (
        "sa2va", SEGMENTER, SAM, f"{SEGMENTER}.variant", "small", f"{SEGMENTER}.occlusion", "true",
        f"{SEGMENTER}.weights", "small/sam",
    ),
    "adapters after all stages": ("samwise", f"{ADAPTER}.stages", "[0,1,2,3]", *ANEW),
    "adapter after one stage": ("samwise", f"{ADAPTER}.stages", "[2]", *ANEW),
    "cmt in edge_sam": (
        "sam_i2v_cmt", f"{SEGMENTER}.variant", "edge_sam", f"{SEGMENTER}.weights", "null",
        f"{SEGMENTER}.image_size", "128",
    ),
}  # fmt: skip


@pytest.mark.parametrize("swap", SWAPS)
def test_a_swap_reaches_its_first_step(swap, run):
    system, *flags = SWAPS[swap]
    assert run("fit", "-c", f"configs/{system}.yaml", *flags, *FEW).trainer.global_step == 1


REFUSED = {
    "a width of another segmenter": (
        ("samwise", f"{ADAPTER}.channels", "[96,192,384,768]"),
        r"--model.network.adapter.channels is \(96, 192, 384, 768\), Sam2 has \(16, 32, 64, 128\)",
    ),
    "too few tube sides": (
        ("samwise", f"{ADAPTER}.patches", "[4,2]"),
        r"--model.network.adapter.patches \[4, 2\] has 2 values: give 3",
    ),
    "tubes that do not divide a map": (
        ("samwise", f"{ADAPTER}.patches", "[4,4,3]"),
        r"3 cells at stage 3 do not divide the segmenter's 4 x 4 map",
    ),
    "a memory without its segmenter": (
        ("samwise", SEGMENTER, SAM, f"{SEGMENTER}.variant", "small", f"{SEGMENTER}.weights", "null", *ANEW),
        "ConditionalMemory needs a Sam2, which Sam is not",
    ),
    "no object-score head": (
        ("sam_i2v", f"{SEGMENTER}.occlusion", "false"),
        "set --model.network.segmenter.occlusion true",
    ),
    "no sentence": (
        ("tiny", ADAPTER, "rvos_lightning.parts.adapters.image_features.ImageFeatures"),
        "SentencePrompter needs the sentence that an adapter reads, ImageFeatures reads none",
    ),
    "tracking without memory": (
        (
            "sa2va", SEGMENTER, SAM, f"{SEGMENTER}.variant", "small", f"{SEGMENTER}.weights", "null",
            "--model.network.inference", "sa2va_i",
        ),
        "--model.network.inference sa2va_i tracks with SAM 2's memory, Sam has none",
    ),
    "a loss on what nobody says": (
        (
            "sa2va", SEGMENTER, SAM, f"{SEGMENTER}.variant", "small", f"{SEGMENTER}.weights", "null",
            "--objectives.presence", "callbacks.Presence",
        ),
        "Presence: the network gives no presence_logits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_fit_names_both_sides_and_the_flag(case, run, capsys, monkeypatch):
    from rvos_lightning.data import MovingShapes

    (system, *flags), said = REFUSED[case]
    monkeypatch.setattr(MovingShapes, "train_dataloader", lambda self: pytest.fail("data were opened first"))
    with pytest.raises((SystemExit, ValueError)) as stop:
        run("fit", "-c", f"configs/{system}.yaml", *flags, *FEW)
    assert re.search(said, f"{stop.value} {' '.join(capsys.readouterr().err.split())}"), stop.value

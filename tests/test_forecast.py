"""The forecast against what the allocator really handed out."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig

from rvos_lightning.run.forecast import Plan, main, tensors_in
from rvos_lightning.run.forecast_memory import Cost, State, fused, measure, per_gpu
from rvos_lightning.run.forecast_speed import GPUS, Conditions, seconds, sent

ROOT = Path(__file__).parents[1]
RECIPES = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs/paper").glob("*.yaml")]
QUICK = ("paper/grounded_sam2_all_frames", "sam_i2v_cmt")  # the second has sizes that only its weights state
SIZES = [(1, 6, 64), (4, 4, 96)]  # batch, frames, pixels
SEGMENTER = "--model.network.segmenter"
LARGER = (f"{SEGMENTER}.image_size", "256", f"{SEGMENTER}.weights", "null")  # attention matters at this size
SYSTEMS = [
    ("samwise", 4, 4, 96, ()),
    ("sa2va", 4, 3, 64, ()),
    ("sa2va", 4, 5, 96, ()),
    ("sam_i2v", 4, 4, 64, ()),
    ("sam_i2v", 1, 4, 256, LARGER),
    ("sam_i2v_per_frame", 4, 4, 64, ()),
    ("sam_i2v_referring", 2, 4, 64, ()),
    ("sam_i2v_cmt", 2, 4, 64, ()),
]


def plan(batch: int, length: int, size: int, system: str = "tiny", flags: Sequence[str] = ()) -> Plan:
    sizes = {"data.batch_size": batch, "data.clip_length": length, "data.size": size}
    return Plan(["-c", f"configs/{system}.yaml", *(str(w) for k, v in sizes.items() for w in (f"--{k}", v)), *flags])


def measured_peak(plan: Plan) -> int:
    """Bytes at the worst moment of one real AdamW step after the first, by PyTorch's own allocation events."""
    made = plan.build("cpu", train_clips=plan.batch)
    module, objectives = made.model.train(), made.objectives.values()
    batch = next(iter(made.data.train_dataloader()))
    optimizer = torch.optim.AdamW(module.network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        prediction = module.network(batch.clip.floating(torch.float32))
        sum(term for objective in objectives for term in objective.terms(batch, prediction).values()).backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    kept = [*module.network.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    with torch.profiler.profile(profile_memory=True) as profiler:
        step()
    live = peak = sum(t.numel() * t.element_size() for t in kept)
    changes = []  # what an operation takes it takes when it starts, what it gives back when it ends
    for event in profiler.events():
        size, when = event.self_cpu_memory_usage, event.time_range
        changes.append((when.start if size > 0 else when.end, size))
    for _, size in sorted(changes):
        live += size
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("sizes", SIZES)
def test_within_fifteen_percent_of_measured(sizes, monkeypatch, root):
    monkeypatch.chdir(root)
    made = plan(*sizes)
    assert per_gpu(*made.count(), 1)["one process"] == pytest.approx(measured_peak(made), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("system", "batch", "length", "size", "flags"), SYSTEMS)
def test_every_system_near_what_is_measured(system, batch, length, size, flags, monkeypatch, root):
    """Numbers decide how many clicks and frames some systems process; one case is counted."""
    monkeypatch.chdir(root)
    made = plan(batch, length, size, system, flags)
    assert per_gpu(*made.count(), 1)["one process"] == pytest.approx(measured_peak(made), rel=0.15)


ATTENTION = {  # shapes of query, key, value and mask, and options
    "plain": ((2, 3, 40, 8), (2, 3, 50, 8), (2, 3, 50, 8), None, {}),
    "other width of values, truth as mask": ((2, 3, 40, 8), (2, 3, 50, 8), (2, 3, 50, 16), (40, 50), {}),
    "one head, no batch": ((1, 40, 8), (1, 40, 8), (1, 40, 8), None, {"is_causal": True}),
    "shared keys": ((2, 6, 40, 8), (2, 2, 50, 8), (2, 2, 50, 8), (2, 1, 1, 50), {"enable_gqa": True}),
    "one query for all": ((1, 3, 40, 8), (4, 3, 50, 8), (4, 3, 50, 8), None, {}),
    "windows": ((2, 4, 3, 40, 8), (2, 4, 3, 40, 8), (2, 4, 3, 40, 8), (2, 4, 1, 40, 40), {"scale": 1.0}),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_is_counted_as_one_kernel_with_the_same_result(case):
    *shapes, mask, options = ATTENTION[case]
    given = [torch.rand(shape, requires_grad=True) for shape in shapes]
    masks = None if mask is None else torch.ones(mask, dtype=torch.bool)
    truth = torch.nn.functional.scaled_dot_product_attention(*given, masks, **options)
    counted = [x.detach().to("meta").requires_grad_() for x in given]
    made = fused(*counted, None if masks is None else masks.to("meta"), **options)
    assert made.shape == truth.shape
    made.sum().backward()
    assert all(x.grad.shape == x.shape for x in counted)
    assert torch.equal(fused(*given, masks, **options), truth)


def test_no_matrix_of_attention_is_counted():
    def attend() -> torch.Tensor:
        query, key, value = (linear(torch.empty(1, 1, 1000, 8, device="meta")) for _ in range(3))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value).sum()

    linear = torch.nn.Linear(8, 8, device="meta")
    assert measure(linear, attend, []).activations < 1000 * 1000 * 4 / 2


def test_flops_scale_with_the_batch(monkeypatch, root):
    monkeypatch.chdir(root)
    one, four = (plan(batch, 4, 64).count()[1].flops for batch in (1, 4))
    assert four == pytest.approx(4 * one, rel=0.05)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(str(path.relative_to(ROOT / "configs").with_suffix("")) for path in RECIPES)
    ],
)
def test_every_recipe_alone(recipe, monkeypatch, root, capsys):
    """At its full size, with nothing but the recipe."""
    monkeypatch.chdir(root)
    main(["-c", f"configs/{recipe}.yaml", "--gpus", "8", "--gpu", "H100", "4090"])
    printed = capsys.readouterr().out
    assert "nothing is trained" in printed or (
        ("8 | fsdp2" in printed) and "| H100 |" in printed and "| 4090 |" in printed
    )


FITS = [
    pytest.param(path.stem, *said, marks=() if (path.stem, said[0]) == ("sgmg", "12") else pytest.mark.slow)
    for path in sorted((ROOT / "configs/finetune").glob("*.yaml"))
    for said in re.findall(r"^#   (\d+) GB: (.+) \(([\d.]+) GB\)$", path.read_text(), re.MULTILINE)
]


def test_a_text_encoders_folder_says_its_sizes(tmp_path, monkeypatch, root):
    monkeypatch.chdir(root)
    sizes = {"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 96}
    RobertaConfig(vocab_size=2000, **sizes).save_pretrained(tmp_path)
    text = "--model.network.adapter.text"
    flags = [f"{text}.weights", str(tmp_path), f"{text}.tokenizer", "{class_path: WordTokenizer}"]
    flags += ["--model.network.adapter.text_layers", "[1, 2, 3, 6]", "--model.network.adapter.weights", "null"]
    made = Plan(["-c", "configs/samwise.yaml", *flags]).build("meta")
    assert made.model.network.adapter.text.depth == 6


@pytest.mark.parametrize(("recipe", "card", "flags", "said"), FITS)
def test_what_the_headers_of_fine_tuning_say_of_memory(recipe, card, flags, said, monkeypatch, root):
    monkeypatch.chdir(root)
    words = [] if flags == "as it stands" else flags.split()
    made = Plan(["-c", f"configs/finetune/{recipe}.yaml", *words])
    assert per_gpu(*made.count(), 1)["one process"] / 1e9 == pytest.approx(float(said), rel=0.02)
    assert float(said) < 0.9 * int(card)  # what fragments and the driver take


def test_every_fine_tuning_recipe_says_what_fits():
    cards = {(values[0], values[1]) for values in (param.values for param in FITS)}
    names = {path.stem for path in (ROOT / "configs/finetune").glob("*.yaml")}
    assert cards == {(name, card) for name in names for card in ("12", "24", "80")} and len(FITS) == 17


def test_small_recipes_have_no_speed(monkeypatch, root, capsys):
    monkeypatch.chdir(root)
    main(["-c", "configs/tiny.yaml"])
    printed = capsys.readouterr().out
    assert "too small to forecast speed" in printed and "| - | - |" in printed


class TestSpeed:
    state = State(parameters=8 * 10**9, trainable=4 * 10**9, optimizer=8 * 10**9, unit=10**8, step=4 * 10**9)
    cost = Cost(10**9, 10**14, 1000)
    given = Conditions("bf16", 0.35, 20e9)

    def time(self, strategy, count=8, gpu="A100", cost=None, given=None):
        return seconds(strategy, self.state, cost or self.cost, count, GPUS[gpu], given or self.given)

    def test_arithmetic_takes_its_time(self):
        assert self.time("one process", 1) == pytest.approx(1e14 / (312e12 * 0.35))
        assert self.time("one process", 1, gpu="H100") == pytest.approx(1e14 / (989e12 * 0.35))
        slow = Conditions("32", 0.6, 20e9)
        assert self.time("one process", 1, given=slow) == pytest.approx(1e14 / (19.5e12 * 0.6))

    def test_no_step_is_faster_than_its_kernels_are_launched(self):
        assert self.time("one process", 1, cost=Cost(0, 1, 5000)) == pytest.approx(0.05)

    def test_communication_and_main_memory_cost_time(self):
        assert sent("fsdp2", self.state) > sent("ddp", self.state) > sent("one process", self.state) == 0
        many = {name: self.time(name, 64) for name in ("ddp", "fsdp2", "deepspeed3", "deepspeed3_offload")}
        assert many["ddp"] < many["fsdp2"] == many["deepspeed3"] < many["deepspeed3_offload"]
        assert self.time("fsdp2", 64) > self.time("fsdp2", 8), "another node is further away"
        assert self.time("deepspeed3_offload", 8) > 2 * self.time("deepspeed3", 8)


def test_sharding_divides_what_it_should():
    state = State(parameters=8 * 10**9, trainable=4 * 10**9, optimizer=8 * 10**9, unit=10**8, step=4 * 10**9)
    one, many = (per_gpu(state, Cost(10**9, 0), gpus) for gpus in (8, 64))
    assert one["ddp"] == many["ddp"] > one["deepspeed2"] > one["fsdp2"] > many["fsdp2"]
    assert many["fsdp2"] == pytest.approx(20e9 / 64 + 2e8 + 1e9)


def test_every_tensor_of_a_batch_is_found():
    from rvos_lightning.data import MovingShapes

    batch = next(iter(MovingShapes(size=32, clip_length=2, train_clips=2, batch_size=2).train_dataloader()))
    assert {id(t) for t in tensors_in(batch)} >= {id(batch.clip.frames), id(batch.targets.masks), id(batch.clip.video)}

"""SAM-I2V's parts against the recordings of the official code."""

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.systems.sam_i2v import official, rope_attention
from rvos_lightning.systems.sam_i2v.head_step import Asked, head_step, mask_as_output, stability, stable_single
from rvos_lightning.systems.sam_i2v.memory_bank import FrameMemory, TrackState, gather_tokens
from rvos_lightning.systems.sam_i2v.memory_selector import MemorySelector
from tests.parity.sam_i2v_rule import Recording, ellipse, fill, given, recordings

pytestmark = pytest.mark.xdist_group("sam_i2v")


@lru_cache(maxsize=2)
def network(sharp: bool) -> PromptedSegmenter:
    """The released configuration with the recordings' weights."""
    model = official.build().eval()
    model.memory.fill_holes = 0  # recorded without the extension that fills them
    fill(model, official.official_names(model.state_dict()), sharp)
    return model


def each(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", recordings(pattern), ids=lambda path: path.stem)


def cases(recording: Recording) -> list[str]:
    return sorted({key.split(".")[0] for key in recording})


@pytest.fixture(autouse=True)
def no_grad():
    with torch.inference_mode():
        yield


@each("tfi*")
def test_temporal_integrator(path: Path) -> None:
    recording = Recording(path)
    tfi = network(recording.sharp).adapter
    for case in cases(recording):
        sides = {"main": (64, 64, 64), "resize": (32, 128, 64)}[case]
        widths = tfi.channels
        levels = tuple(
            given(f"tfi.{case}.s{i + 2}", 1, w, side, side)
            for i, (w, side) in enumerate(zip(widths, sides, strict=True))
        )
        video = given(f"tfi.{case}.video", 1, 3, tfi.frames, 1024, 1024)
        temporal = tfi.stem_slots(video.transpose(1, 2), torch.arange(tfi.frames)[None])
        seen: dict[str, Tensor] = {"stem": temporal}
        hooks = []
        for i in range(3):
            parts = {f"tnet{i}": tfi.temporal[i], f"t2s{i}": tfi.to_image[i], f"int{i}": tfi.integrate[i]}
            parts |= {f"s2t{i}_last": tfi.to_temporal[i]} if i < 2 else {}
            for name, part in parts.items():
                hook = lambda _, __, y, name=name, seen=seen: seen.__setitem__(name, y)  # noqa: E731
                hooks.append(part.register_forward_hook(hook))
        seen["out"] = tfi.integrate_levels(levels, temporal)
        for hook in hooks:
            hook.remove()
        for key in (key for key in recording if key.startswith(case + ".") and not key.endswith(".stats")):
            name = key.split(".")[1]
            value = seen[name]
            if name == "tnet2":  # we compute only the slot that is read
                expected = recording[key][:, :, -1]
                got = value[:, ::12, -1, ::16, ::16]
                assert (got - expected).abs().max() <= 1e-3 * expected.std()
                continue
            strides = {"stem": (1, 12, 1, 16, 16), "tnet": (1, 12, 1, 16, 16), "out": (1, 8, 4, 4), "s2t": (1, 8, 8, 8)}
            recording.check(key, value, next((s for n, s in strides.items() if name.startswith(n)), (1, 16, 8, 8)))


@each("memory_encoder*")
def test_memory_encoder(path: Path) -> None:
    recording = Recording(path)
    memory = network(recording.sharp).memory
    pix, mask = given("memenc.pix", 2, 256, 64, 64), given("memenc.mask", 2, 1, 1024, 1024)
    direct = memory.memory_encoder(pix, mask, skip_mask_sigmoid=True)
    recording.check("direct_skip.features", direct["vision_features"], (1, 4, 4, 4))
    recording.check("direct_skip.pos", direct["vision_pos_enc"][0][:1], (2, 4, 8, 8))
    sigmoid = memory.memory_encoder(pix, mask)["vision_features"]
    recording.check("direct_sigmoid.features", sigmoid, (1, 4, 4, 4))
    recording.check("downsampler", memory.memory_encoder.mask_downsampler(mask), (1, 16, 8, 8))
    shapes = torch.stack([ellipse(1024, 1024, 400 + 100 * b, 500 - 60 * b, 220, 300) for b in range(2)])[:, None]
    logits = 8 * shapes.float() - 4 + 0.5 * mask
    scores = torch.tensor([[1.5], [-0.5]])
    recording.check("encode.soft", memory.encode_memory(pix, logits, scores, False), (1, 4, 4, 4))
    recording.check("encode.binarized", memory.encode_memory(pix, logits, scores, True), (1, 4, 4, 4))
    ones = torch.ones(2, 1)
    recording.check("encode.soft_allpresent", memory.encode_memory(pix, logits, ones, False), (1, 4, 4, 4))


@each("memory_attention*")
def test_memory_attention(path: Path) -> None:
    recording = Recording(path)
    attention = network(recording.sharp).memory.memory_attention
    for case in cases(recording):
        batch = recording[f"{case}.layer0"].shape[0]
        side, frames, pointers = {"full": (64, 2, 8), "small": (16, 3, 12)}[case]
        tokens, keys = side * side, frames * side * side + pointers
        curr, pos = (given(f"memattn.{case}.{name}", tokens, batch, 256) for name in ("curr", "curr_pos"))
        memory, code = (
            given(f"memattn.{case}.{name}", keys, batch, 64).transpose(0, 1) for name in ("memory", "memory_pos")
        )
        seen: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_hook(lambda _, __, y, name=f"layer{i}", seen=seen: seen.__setitem__(name, y))
            for i, layer in enumerate(attention.layers)
        ]
        grid = [x.permute(1, 2, 0).unflatten(2, (side, side)) for x in (curr, pos)]
        # The module takes one position code for the batch; the recording has one per row.
        outs, layers = [], {"layer0": [], "layer3": []}
        for b in range(batch):
            row = slice(b, b + 1)
            outs.append(attention(grid[0][row], grid[1][b], memory[row], code[row], pointers))
            for name, rows in layers.items():
                rows.append(seen[name])
        for hook in hooks:
            hook.remove()
        out = torch.cat(outs).flatten(2).permute(2, 0, 1)
        step = 64 if case == "full" else 8
        for name, rows in layers.items():
            recording.check(f"{case}.{name}", torch.cat(rows), (1, step, 4))
        recording.check(f"{case}.out", out, (step // 2, 1, 4))


@each("memory_prompt_generator*")
def test_memory_prompt_generator(path: Path) -> None:
    recording = Recording(path)
    generator = network(recording.sharp).memory.memory_prompt_generator
    memory, code = (given(f"mpg.{name}", 8192 + 8, 2, 64).transpose(0, 1) for name in ("memory", "memory_pos"))
    spatial = (given("mpg.fg", 8192, 2, 1) > 0.5)[..., 0].T
    pointers = torch.ones(2, 8, dtype=torch.bool)
    masks = {"masked": spatial, "only_pointers": torch.zeros_like(spatial), "all_open": torch.ones_like(spatial)}
    for name, keep in masks.items():
        recording.check(name, generator(memory, code, torch.cat([keep, pointers], 1), 8, (64, 64)))
    recording.check("no_memory", generator.no_memory(recording["no_memory"].shape[0]))


@each("memory_selector*")
def test_memory_selector(path: Path) -> None:
    recording = Recording(path)
    memory = network(False).memory
    for case in cases(recording):
        check_selection(recording, case, memory)


def check_selection(recording: Recording, case: str, memory: torch.nn.Module) -> None:
    """Rebuild a case of the selector recording."""
    import re

    frame = int(re.search(r"(\d+)$", case).group(1))
    reverse = case.startswith("reverse")
    batch = recording[f"{case}.block_frames"].shape[1]
    cond = {"two_cond": [0, 10], "late_start": [10], "reverse": [10]}.get(case.rstrip("0123456789"), [0])
    if reverse:
        others = list(range(frame + 1, cond[0]))
    else:
        others = [i for i in range(cond[0] + 1, frame) if i not in cond]
    current = given(f"selector.curr.{frame}", 64, batch, 256)
    embed = {i: given(f"selector.embed.{i}", 64, batch, 256) + 0.1 * (i % 7) * current for i in (*cond, *others)}
    embed[frame] = current
    state = TrackState(index=frame)
    state.embeds = {i: functional.normalize(e.transpose(0, 1).flatten(1), dim=1, eps=1e-12) for i, e in embed.items()}
    for i in (*cond, *others):
        keep = torch.ones(batch, 64, dtype=torch.bool)
        spatial, pointer = torch.full((batch, 64, 8, 8), float(i)), torch.full((batch, 256), float(i))
        state.frames[i] = FrameMemory(spatial, pointer, keep, [i in cond] * batch)
    calls = []
    memory.selector = MemorySelector(draw="random")

    def injected(probs: Tensor, keep: int) -> Tensor:
        j = len(calls)
        calls.append(j)
        assert (probs - recording[f"{case}.call{j}.probs"].flatten()).abs().max() < 1e-6
        drawn = recording[f"{case}.call{j}.drawn"].flatten().long()
        assert len(drawn) == keep
        return drawn

    memory.selector.injected = injected
    readings = memory.readings(state, frame, range(batch), range(batch), 60, reverse)
    memory.selector = MemorySelector()
    assert len(calls) == sum(key.startswith(f"{case}.call") and key.endswith("drawn") for key in recording)
    blocks = [[b.frame for b in r.blocks for _ in range(b.count)] for r in readings]
    assert torch.tensor(blocks).T.tolist() == recording[f"{case}.block_frames"].long().tolist()
    rows = [[6 - b.code for b in r.blocks for _ in range(b.count)] for r in readings]
    assert torch.tensor(rows).T.tolist() == recording[f"{case}.block_tpos_row"].long().tolist()
    pointers = [[b for b in r.blocks for _ in range(b.pointer_count)] for r in readings]
    assert [[b.frame for b in r] for r in zip(*pointers, strict=True)] == recording[
        f"{case}.ptr_frames"
    ].long().tolist()
    assert len(pointers[0]) * 4 == int(recording[f"{case}.num_obj_ptr_tokens"])
    distance = torch.tensor([b.pointer / readings[0].divisor for b in pointers[0]])
    code = memory.obj_ptr_tpos_proj(rope_attention.sine_1d(distance, 256))
    recording.check(f"{case}.ptr_posenc", code, (1, 4))
    tokens = gather_tokens(state, range(batch), readings, memory.maskmem_tpos_enc.flatten(1), memory.obj_ptr_tpos_proj)
    assert tokens.values.shape[1] == 64 * len(readings[0].blocks) + tokens.pointers


@each("heads*")
def test_heads(path: Path) -> None:
    recording = Recording(path)
    model = network(recording.sharp)
    sam, memory = model.segmenter, model.memory
    feature = given("heads.feat", 2, 256, 64, 64)
    tokens, code = (given(f"heads.{name}", 4096 + 4, 2, 64).transpose(0, 1) for name in ("memory", "memory_pos"))
    keep = torch.cat([(given("heads.fg", 4096, 2, 1) > 0)[..., 0].T, torch.ones(2, 4, dtype=torch.bool)], 1)
    remembered = memory.memory_prompt_generator(tokens, code, keep, 4, (64, 64))
    nothing = memory.memory_prompt_generator.no_memory(2)
    low = 4 * given("heads.mask_prompt", 2, 1, 256, 256)
    points = {
        "one": ([[[512, 300]], [[100.5, 900.25]]], [[1], [0]]),
        "box": ([[[100, 200], [600, 700]], [[10, 20], [1000, 1010]]], [[2, 3], [2, 3]]),
        "three": ([[[10, 20], [500, 500], [1000, 30]], [[700, 701], [702, 703], [0, 1023]]], [[1, 0, 1], [1, 1, -1]]),
    }
    asked = {name: Asked(torch.tensor(p).float(), torch.tensor(q)) for name, (p, q) in points.items()}
    for name, prompt in asked.items():
        recording.check(f"prompt.{name}.sparse", sam.embed_points(prompt.points, prompt.labels), (1, 1, 4))
        dense = sam.embed_mask(low) if name == "three" else sam.no_mask(2)
        recording.check(f"prompt.{name}.dense", dense, (1, 8, 16, 16))
    recording.check("prompt.dense_pe", sam.prompt_encoder.get_dense_pe(), (1, 8, 16, 16))
    asked["three"].previous = low
    steps = {"click_first": ("one", nothing), "box": ("box", nothing), "three_mask": ("three", remembered)}
    for name, (prompt, prompts) in steps.items():
        check_head(recording, name, head_step(sam, feature, asked[prompt], prompts, stable=True), memory)
    check_head(recording, "track", head_step(sam, feature, Asked(), remembered, stable=True), memory)
    bias = sam.mask_decoder.pred_obj_score_head.layers[2].bias
    kept = bias.clone()
    bias.fill_(-1)
    check_head(recording, "occluded", head_step(sam, feature, Asked(), remembered, stable=True), memory)
    bias.copy_(kept)
    ellipses = [ellipse(1024, 1024, 512, 400, 200, 150), ellipse(1024, 1024, 300, 700, 90, 260)]
    mask = torch.stack(ellipses)[:, None].float()
    answered = mask_as_output(sam, feature, mask, memory.mask_downsample(mask), nothing)
    check_head(recording, "mask_as_output", answered, memory, high=mask * 20 - 10)
    sparse, dense = given("heads.sparse", 2, 2, 256), given("heads.dense", 2, 256, 64, 64)
    all_four = sam.decode_masks(feature, torch.cat([sparse, given("heads.memory_prompts", 2, 3, 256)], 1), dense)
    recording.check("decoder.masks", all_four.mask_logits, (1, 1, 16, 16))
    recording.check("decoder.ious", all_four.iou)
    recording.check("decoder.mask_tokens", all_four.tokens, (1, 1, 8))
    recording.check("decoder.obj_score", all_four.presence_logits)


def check_head(recording: Recording, name: str, output, memory, high: Tensor | None = None) -> None:
    recording.check(f"{name}.low_res_multimasks", output.candidates, (1, 1, 16, 16))
    recording.check(f"{name}.low_res_masks", output.chosen, (1, 1, 8, 8))
    if high is None:
        high = functional.interpolate(output.chosen, scale_factor=4, mode="bilinear", align_corners=False)
    recording.check(f"{name}.high_res_masks", high, (1, 1, 64, 64))
    recording.check(f"{name}.ious", output.iou)
    recording.check(f"{name}.object_score_logits", output.presence_logits, bound=3e-3)
    recording.check(f"{name}.obj_ptr", memory.pointer(output), (1, 2))


@each("heads*")
def test_stability(path: Path) -> None:
    recording = Recording(path)
    first = (2 * ellipse(64, 64, 30, 30, 15, 20).float() - 1).expand(4, -1, -1)
    logits = torch.stack([first, 0.1 * given("heads.stab", 4, 64, 64)])
    iou = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.9, 0.3, 0.2, 0.6]])
    recording.check("stability.scores", stability(logits[:, :1]))
    mask, best = stable_single(logits, iou)
    recording.check("stability.out_mask", mask, (1, 1, 4, 4))
    recording.check("stability.out_iou", best)


@each("misc*")
def test_codes(path: Path) -> None:
    recording = Recording(path)
    for dim, step in ((256, 8), (64, 4)):
        recording.check(f"sine2d.{dim}", rope_attention.sine_2d(dim, 64, 64), (step, 8, 8))
    positions = torch.tensor([0, 1, 0.5, -0.75, 1.25])
    recording.check("sine1d", rope_attention.sine_1d(positions, 256), (1, 4))
    projected = network(recording.sharp).memory.obj_ptr_tpos_proj(rope_attention.sine_1d(positions, 256))
    recording.check("ptr_tpos_proj", projected)
    for name, (width, height) in {"rope64": (64, 64), "rope_q3": (3, 1)}.items():
        cosine, sine = rope_attention.rotation(256, width, height)
        table = torch.stack([cosine[:, 1::2], sine[:, 1::2]], 2)[:: 97 if name == "rope64" else 1]
        recording.check(name, table, (1, 4, 1))


@each("misc*")
def test_preprocessing(path: Path) -> None:
    import zlib

    import numpy as np

    from rvos_lightning.parts.segmenters.sam_encoders import normalise
    from rvos_lightning.systems.sam_i2v.head_step import resize_mask
    from tests.parity.sam_i2v_rule import prefix

    recording = Recording(path)
    seed = zlib.crc32(f"{prefix()}pre.image".encode()) & 0xFFFFFFFF
    pixels = torch.from_numpy(np.random.RandomState(seed).randint(0, 256, (270, 480, 3), dtype=np.int64))
    tensor = normalise(pixels.permute(2, 0, 1)[None].float() / 255, 1024)[0]
    recording.check("pre.tensor", tensor, (1, 32, 32))
    mask = resize_mask(ellipse(270, 480, 108, 240, 54, 144), 1024)
    recording.check("pre.mask_resized", mask[None], (1, 1, 16, 16))
    assert int(mask.sum()) == int(recording["pre.mask_resized_sum"])


@each("misc*")
def test_clicks(path: Path) -> None:
    from rvos_lightning.data.clips import simulated_user as user

    recording = Recording(path)

    def mask(*shapes: tuple[float, ...]) -> Tensor:
        return torch.stack([ellipse(96, 128, *shape) for shape in shapes]).any(0)

    truths = [mask((40, 60, 25, 35)), mask((30, 30, 10, 20), (60, 70, 9, 14)), mask((45, 45, 20, 20))]
    guesses = [mask((44, 52, 22, 30)), mask((30, 33, 12, 16)), mask((45, 45, 26, 31))]
    for i, (truth, guess) in enumerate(zip(truths, guesses, strict=True)):
        for name, predicted in (("center", guess), ("center_first", torch.zeros_like(guess))):
            point, label = user.centre_of_error(truth, predicted)
            assert list(point) == recording[f"click.{name}.points"][i, 0].tolist(), name
            assert label == int(recording[f"click.{name}.labels"][i, 0])
        assert list(user.first_click(truth)) == recording["click.eval_first"][i].tolist()
        assert user.overlap(truth, guess) == pytest.approx(float(recording["click.eval_iou"][i]), abs=1e-6)
        assert list(user.tight_box(truth)) == recording["click.eval_box"][i].tolist()
        assert user.inclusive_box(truth).tolist() == recording["click.mask_to_box"][i, 0].tolist()

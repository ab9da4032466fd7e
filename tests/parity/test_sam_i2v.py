"""SAM-I2V's parts against the recordings of the official code."""

import json
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from stated import check_kinds, stated
from torch import Tensor
from torch.nn import functional

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.metrics.region_boundary import j_and_f
from rvos_lightning.systems.sam_i2v import official, rope_attention
from rvos_lightning.systems.sam_i2v.head_step import (
    Asked,
    fill_holes,
    head_step,
    mask_as_output,
    stability,
    stable_single,
)
from rvos_lightning.systems.sam_i2v.memory_bank import FrameMemory, TrackState, gather_tokens
from rvos_lightning.systems.sam_i2v.memory_selector import MemorySelector
from tests.parity.sam_i2v_rule import (
    FILL,
    FOLDER,
    README,
    Recording,
    ellipse,
    fill,
    given,
    numbers,
    recordings,
    shapes,
    start,
)

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


def test_every_recording_is_of_a_kind_that_is_tested() -> None:
    parts = ("tfi", "memory_attention", "memory_encoder", "memory_prompt_generator", "memory_selector", "heads", "misc")
    others = ("encoder_", "losses", "optim_groups", "train_image", "train_video", "e2e_click", "e2e_two_objects")
    check_kinds(FOLDER, parts + others)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.inference_mode():
        yield


@each("tfi*")
def test_temporal_integrator(path: Path) -> None:
    recording = Recording(path)
    tfi = network(recording.sharp).adapter
    for case in cases(recording):
        default = {"main": (64, 64, 64), "resize": (32, 128, 64)}.get(case, (64, 64, 64))
        sides = stated(README, rf"`{case}` s2 (\d+)x\d+, s3 (\d+)x\d+, s4 (\d+)x\d+", default)
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
    batch = len(recording["direct_skip.features"])
    pix, mask = given("memenc.pix", batch, 256, 64, 64), given("memenc.mask", batch, 1, 1024, 1024)
    direct = memory.memory_encoder(pix, mask, skip_mask_sigmoid=True)
    recording.check("direct_skip.features", direct["vision_features"], (1, 4, 4, 4))
    recording.check("direct_skip.pos", direct["vision_pos_enc"][0][:1], (2, 4, 8, 8))
    sigmoid = memory.memory_encoder(pix, mask)["vision_features"]
    recording.check("direct_sigmoid.features", sigmoid, (1, 4, 4, 4))
    recording.check("downsampler", memory.memory_encoder.mask_downsampler(mask), (1, 16, 8, 8))
    (said,) = shapes(r"logits L_b = 8\*(E\([^)]*\))", "E(1024,1024,400+100b,500-60b,220,300)")
    inside = torch.stack([ellipse(*numbers(said, b=b)) for b in range(batch)])[:, None]
    logits = 8 * inside.float() - 4 + 0.5 * mask
    scores = torch.tensor(stated(README, r"scores ([+-][\d.]+) / ([+-][\d.]+)\)", (1.5, -0.5)))[:, None]
    recording.check("encode.soft", memory.encode_memory(pix, logits, scores, False), (1, 4, 4, 4))
    recording.check("encode.binarized", memory.encode_memory(pix, logits, scores, True), (1, 4, 4, 4))
    ones = torch.ones(batch, 1)
    recording.check("encode.soft_allpresent", memory.encode_memory(pix, logits, ones, False), (1, 4, 4, 4))


@each("memory_attention*")
def test_memory_attention(path: Path) -> None:
    recording = Recording(path)
    attention = network(recording.sharp).memory.memory_attention
    for case in cases(recording):
        batch = recording[f"{case}.layer0"].shape[0]
        said = rf"`{case}`: B=\d+, (\d+)x\d+ queries, (\d+) memory frames .*?(\d+) pointer tokens"
        side, frames, pointers = stated(README, said, {"full": (64, 2, 8)}.get(case, (16, 3, 12)))
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
    tokens, count = stated(README, r"`mpg.memory_pos` \((\d+)\+(\d+),", (8192, 8))
    batch = len(recording["masked"])
    memory, code = (
        given(f"mpg.{name}", tokens + count, batch, 64).transpose(0, 1) for name in ("memory", "memory_pos")
    )
    spatial = (given("mpg.fg", tokens, batch, 1) > 0.5)[..., 0].T
    pointers = torch.ones(batch, count, dtype=torch.bool)
    masks = {"masked": spatial, "only_pointers": torch.zeros_like(spatial), "all_open": torch.ones_like(spatial)}
    for name, keep in masks.items():
        recording.check(name, generator(memory, code, torch.cat([keep, pointers], 1), count, (64, 64)))
    recording.check("no_memory", generator.no_memory(recording["no_memory"].shape[0]))


@each("memory_selector*")
def test_memory_selector(path: Path) -> None:
    recording = Recording(path)
    memory = network(False).memory
    for case in cases(recording):
        check_selection(recording, case, memory)


def check_selection(recording: Recording, case: str, memory: torch.nn.Module) -> None:
    """Rebuild a case of the selector recording."""
    frame = int(re.search(r"(\d+)$", case).group(1))
    reverse = case.startswith("reverse")
    batch = recording[f"{case}.block_frames"].shape[1]
    default = {"two_cond": "0,10", "late_start": "10", "reverse": "10"}.get(case.rstrip("0123456789"), "0")
    cond = [int(i) for i in stated(README, rf"`{case}` \([^)]*?[^-]cond {{([\d,]+)}}", default).split(",")]
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


POINTS = {
    "one": ("[[[512,300]],[[100.5,900.25]]]", "[[1],[0]]"),
    "box": ("[[[100,200],[600,700]],[[10,20],[1000,1010]]]", "2,3"),
    "three": ("[[[10,20],[500,500],[1000,30]],[[700,701],[702,703],[0,1023]]]", "[[1,0,1],[1,1,-1]]"),
}


def asked_points(name: str) -> Asked:
    """Points and labels of a head step, as stated; labels without brackets are every item's."""
    said = rf"`{name}` (\[\[\[[^a-z]*\]\]\]) labels (\[\[[^a-z]*?\]\]|[\d,]*\d)"
    points, labels = (json.loads(f"[{part}]") for part in stated(README, said, POINTS[name]))
    points = torch.tensor(points[0]).float()
    return Asked(points, torch.tensor(labels[0] if isinstance(labels[0], list) else [labels] * len(points)))


@each("heads*")
def test_heads(path: Path) -> None:
    recording = Recording(path)
    model = network(recording.sharp)
    sam, memory = model.segmenter, model.memory
    batch = len(recording["track.ious"])
    count = stated(README, r"`heads.memory_pos` \(4096\+(\d+),", 4)
    feature = given("heads.feat", batch, 256, 64, 64)
    tokens, code = (given(f"heads.{n}", 4096 + count, batch, 64).transpose(0, 1) for n in ("memory", "memory_pos"))
    pointers = torch.ones(batch, count, dtype=torch.bool)
    keep = torch.cat([(given("heads.fg", 4096, batch, 1) > 0)[..., 0].T, pointers], 1)
    remembered = memory.memory_prompt_generator(tokens, code, keep, count, (64, 64))
    nothing = memory.memory_prompt_generator.no_memory(batch)
    low = 4 * given("heads.mask_prompt", batch, 1, 256, 256)
    asked = {name: asked_points(name) for name in POINTS}
    for name, prompt in asked.items():
        recording.check(f"prompt.{name}.sparse", sam.embed_points(prompt.points, prompt.labels), (1, 1, 4))
        dense = sam.embed_mask(low) if name == "three" else sam.no_mask(batch)
        recording.check(f"prompt.{name}.dense", dense, (1, 8, 16, 16))
    recording.check("prompt.dense_pe", sam.prompt_encoder.get_dense_pe(), (1, 8, 16, 16))
    asked["three"].previous = low
    steps = {"click_first": ("one", nothing), "box": ("box", nothing), "three_mask": ("three", remembered)}
    for name, (prompt, prompts) in steps.items():
        check_head(recording, name, head_step(sam, feature, asked[prompt], prompts, stable=True), memory)
    check_head(recording, "track", head_step(sam, feature, Asked(), remembered, stable=True), memory)
    bias = sam.mask_decoder.pred_obj_score_head.layers[2].bias
    kept = bias.clone()
    bias.fill_(stated(README, r"`sam_mask_decoder.pred_obj_score_head.layers.2.bias` = (-[\d.]+)\)", -1.0))
    check_head(recording, "occluded", head_step(sam, feature, Asked(), remembered, stable=True), memory)
    bias.copy_(kept)
    said = shapes(r"GT-mask path, masks (.*?\) and E\(.*?\))", "E(1024,1024,512,400,200,150) and E(..,300,700,90,260)")
    ellipses = [ellipse(1024, 1024, *numbers(one)[-4:]) for one in said]
    mask = torch.stack(ellipses)[:, None].float()
    answered = mask_as_output(sam, feature, mask, memory.mask_downsample(mask), nothing)
    check_head(recording, "mask_as_output", answered, memory, high=mask * 20 - 10)
    sparse, dense = given("heads.sparse", batch, 2, 256), given("heads.dense", batch, 256, 64, 64)
    prompts = given("heads.memory_prompts", batch, 3, 256)
    all_four = sam.decode_masks(feature, torch.cat([sparse, prompts], 1), dense)
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
    (said,) = shapes(r"logits t = \[2\*(E\([^)]*\))-1", "E(64,64,30,30,15,20)")
    first = (2 * ellipse(*numbers(said)).float() - 1).expand(4, -1, -1)
    logits = torch.stack([first, 0.1 * given("heads.stab", 4, 64, 64)])
    given_iou = stated(README, r"\], IoUs (\[\[.*?\]\])", "[[.9,.1,.8,.2],[.9,.3,.2,.6]]")
    iou = torch.tensor([float(n) for n in re.findall(r"[\d.]+", given_iou)]).unflatten(0, (2, 4))
    recording.check("stability.scores", stability(logits[:, :1]))
    mask, best = stable_single(logits, iou)
    recording.check("stability.out_mask", mask, (1, 1, 4, 4))
    recording.check("stability.out_iou", best)


@each("misc*")
def test_codes(path: Path) -> None:
    recording = Recording(path)
    for dim, step in ((256, 8), (64, 4)):
        recording.check(f"sine2d.{dim}", rope_attention.sine_2d(dim, 64, 64), (step, 8, 8))
    said = stated(README, r"`sine1d` for positions \[(.*?)\]", "0,1,.5,-.75,1.25")
    positions = torch.tensor([float(n) for n in said.split(",")])
    recording.check("sine1d", rope_attention.sine_1d(positions, 256), (1, 4))
    projected = network(recording.sharp).memory.obj_ptr_tpos_proj(rope_attention.sine_1d(positions, 256))
    recording.check("ptr_tpos_proj", projected)
    for name, (width, height) in {"rope64": (64, 64), "rope_q3": (3, 1)}.items():
        cosine, sine = rope_attention.rotation(256, width, height)
        table = torch.stack([cosine[:, 1::2], sine[:, 1::2]], 2)[:: 97 if name == "rope64" else 1]
        recording.check(name, table, (1, 4, 1))


@each("misc*")
def test_preprocessing(path: Path) -> None:
    from rvos_lightning.parts.segmenters.sam_encoders import normalise
    from rvos_lightning.systems.sam_i2v.head_step import resize_mask

    recording = Recording(path)
    seed = zlib.crc32(f"{start()}pre.image".encode()) & 0xFFFFFFFF
    size = [int(side) for side in recording["pre.size"]]
    pixels = torch.from_numpy(np.random.RandomState(seed).randint(0, 256, (*size, 3), dtype=np.int64))
    tensor = normalise(pixels.permute(2, 0, 1)[None].float() / 255, 1024)[0]
    recording.check("pre.tensor", tensor, (1, 32, 32))
    (said,) = shapes(r"`pre.mask_resized` GT mask (E\([^)]*\))", "E(270,480,108,240,54,144)")
    mask = resize_mask(ellipse(*numbers(said)), 1024)
    recording.check("pre.mask_resized", mask[None], (1, 1, 16, 16))
    assert int(mask.sum()) == int(recording["pre.mask_resized_sum"])


@each("misc*")
def test_clicks(path: Path) -> None:
    from rvos_lightning.data.clips import simulated_user as user

    recording = Recording(path)

    size = stated(README, r"Masks (\d+)x(\d+): gt", (96, 128))

    def masks(name: str, default: str) -> list[Tensor]:
        items = stated(README, rf"{name} = \[(E[^\]]*)\]", default).split(";")
        said = [re.findall(r"E\(([^)]*)\)", item) for item in items]
        return [torch.stack([ellipse(*size, *numbers(one)) for one in item]).any(0) for item in said]

    truths = masks("gt", "E(40,60,25,35); E(30,30,10,20) or E(60,70,9,14); E(45,45,20,20)")
    guesses = masks("pred", "E(44,52,22,30); E(30,33,12,16); E(45,45,26,31)")
    for i, (truth, guess) in enumerate(zip(truths, guesses, strict=True)):
        for name, predicted in (("center", guess), ("center_first", torch.zeros_like(guess))):
            point, label = user.centre_of_error(truth, predicted)
            assert list(point) == recording[f"click.{name}.points"][i, 0].tolist(), name
            assert label == int(recording[f"click.{name}.labels"][i, 0])
        assert list(user.first_click(truth)) == recording["click.eval_first"][i].tolist()
        assert user.overlap(truth, guess) == pytest.approx(float(recording["click.eval_iou"][i]), abs=1e-6)
        assert list(user.tight_box(truth)) == recording["click.eval_box"][i].tolist()
        assert user.inclusive_box(truth).tolist() == recording["click.mask_to_box"][i, 0].tolist()


@each("misc*")
def test_holes_are_filled(path: Path) -> None:
    recording = Recording(path)
    mask = given("misc.fill", *recording["fill.out"].shape) + FILL
    area = stated(README, r"z <= 0 with area <= (\d+) become", 8)
    recording.check("fill.out", fill_holes(mask, area))


@each("misc*")
def test_region_and_boundary(path: Path) -> None:
    recording = Recording(path)
    size = stated(README, r"scores on (\d+)x(\d+): gt_i", (240, 320))
    said = shapes(
        r"(gt_i = E.*?, i=0\.\.\d)", "E(240,320,100+4i,120+6i,40,60-5i), pred_i = E(..,100+7i,120+4i,40+i,60-5i)"
    )
    count = len(recording["jf.j"]) - 2  # then nothing on both sides, then nothing but a prediction
    pairs = [[ellipse(*size, *numbers(one, i=i)[-4:]) for one in said] for i in range(count)]
    nothing = torch.zeros(size, dtype=torch.bool)
    (alone,) = shapes(r"\(empty gt, pred (E\([^)]*\))", "E(50,50,5,5)")
    pairs += [[nothing, nothing], [nothing, ellipse(*size, *numbers(alone)[-4:])]]
    truth, predicted = (torch.stack(side) for side in zip(*pairs, strict=True))
    scores = j_and_f(predicted, truth)
    for name, values in zip("jf", scores, strict=True):
        torch.testing.assert_close(values.float(), recording[f"jf.{name}"].float(), atol=1e-5, rtol=0)
    means = torch.stack([100 * values.mean() for values in scores]).float()
    torch.testing.assert_close(means, recording["jf.mean"].float(), atol=1e-3, rtol=0)

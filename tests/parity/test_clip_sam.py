"""SAM + CLIP (released preset), block by block and end to end, against recordings of the released code."""

import pytest
import torch
from clip_sam_recordings import FOLDER, RESULTS, Recording, files, network, seed, sentences, tag_of
from stated import check_kinds
from torch import nn
from torch.nn import functional

from rvos_lightning.core.types import Clip, ClipMeta, Targets
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.systems.clip_sam.bridge import ImageFeatures, TextFeatures
from rvos_lightning.systems.clip_sam.pixel_decoder import PixelDecoder, reference_points
from rvos_lightning.systems.clip_sam.pwam import Pwam, over_positions
from rvos_lightning.systems.clip_sam.pyramid import SimplePyramid
from rvos_lightning.systems.clip_sam.queries import Dfam, Names, may_look
from rvos_lightning.systems.clip_sam.sparse_token import SparseToken

CLOSE = {"atol": 2e-5, "rtol": 1e-5}


def recordings(pattern):
    """One parameter per file, named after it."""
    return pytest.mark.parametrize("path", files(pattern), ids=lambda path: path.stem)


@pytest.fixture(scope="module", autouse=True)
def table():
    """Prints the greatest error of every file when all is done (pytest -s)."""
    yield
    greatest = {}
    for stem, name, error in RESULTS:
        greatest[stem] = max(greatest.get(stem, (0.0, "")), (error, name))
    for stem, (error, name) in greatest.items():
        print(f"\n{stem:24s} max error {error:.1e} ({name})", end="")


def watch(module, seen, name, take=lambda inputs, output: output):
    """Keep what a module was given or gave."""
    module.register_forward_hook(lambda m, inputs, output: seen.__setitem__(name, take(inputs, output)))


def lens_mask(golden):
    return torch.arange(golden.config["T"]) < torch.tensor(golden.config["lens"])[:, None]


def test_every_recording_has_its_test():
    blocks = ("pwam", "clip_pyramid", "sam_pyramid", "pixel_decoder", "dfam", "sparse_token", "sam_decoder")
    check_kinds(FOLDER, (*blocks, "e2e_ris", "e2e_gres", "losses", "train_", "optimizer_", "weight_factors"))


@recordings("pwam*.safetensors")
def test_pwam(path):
    golden = Recording(path)
    c, seen = golden.config, {}
    pwam = seed(Pwam(), "bridge.fusion.")
    for name, module in (("key_before_mask", pwam.key), ("value_before_mask", pwam.value)):
        watch(module, seen, name, lambda i, o: o.transpose(1, 2))
    watch(pwam.out, seen, "attended", lambda i, o: i[0].transpose(1, 2))
    real = lens_mask(golden)
    looked = pwam.look(golden.normal("pwam.v", c["B"], c["grid"] ** 2, 1024))
    fused = pwam(looked, golden.normal("pwam.l", c["B"], c["T"], 256), real, torch.arange(c["B"]))
    seen |= {"a": looked.gate.transpose(1, 2), "q": looked.query.transpose(1, 2)}
    for name, value in seen.items():
        golden.check(name, value, **CLOSE)
    golden.check("g", over_positions(pwam.out(seen["attended"].transpose(1, 2))).transpose(1, 2), atol=2e-4)
    golden.check("fused", fused.transpose(1, 2).unflatten(2, (c["grid"], c["grid"])), atol=2e-4)
    golden.exact("text_mask", real)
    golden.complete()


@recordings("*_pyramid*.safetensors")
def test_pyramids(path):
    golden = Recording(path)
    batch, (height, width) = golden.config["B"], golden.config["hw"]
    clip = path.stem.startswith("clip")
    x = golden.normal("cp.x" if clip else "sp.x", batch, 256, height, width)
    for start, channels in (("", 768 if clip else 256), ("w256_", 256)):
        if f"{start}fine" not in golden:
            continue
        pyramid, seen = SimplePyramid(256, channels, doubled=clip), {}
        seed(pyramid, f"bridge.{'clip' if clip else 'sam'}_pyramid.")
        if clip and not start:
            watch(pyramid.levels[0][0], seen, "fine_after_transposed_conv")
            watch(pyramid.levels[0][2], seen, "fine_after_first_conv")
        for name, level in zip(("fine", "middle", "coarse"), pyramid(x), strict=True):
            seen[start + name] = level
        for name, value in seen.items():
            golden.check(name, value, **CLOSE)
    golden.complete()


@recordings("pixel_decoder*.safetensors")
def test_pixel_decoder(path):
    golden = Recording(path)
    batch, (height, width) = golden.config["B"], golden.config["hw"]
    levels = tuple(
        golden.normal(f"pd.{name}", batch, 768, height // part, width // part)
        for name, part in (("fine", 1), ("middle", 2), ("coarse", 4))
    )
    decoder, seen = seed(PixelDecoder(768, bottleneck=True), "bridge.pixel_decoder."), {}
    names = ("coarse", "middle", "fine")
    for i, name in enumerate(names):
        watch(decoder.project[i], seen, f"projected_{name}")
        watch(decoder.lateral[2 - i], seen, f"lateral_{name}")
    watch(decoder.layers[0].self_attn, seen, "layer0_attention", lambda i, o: o[0])
    watch(decoder.layers[0], seen, "layer0_out", lambda i, o: o[0])
    watch(decoder.layers[-1], seen, "layer5_out", lambda i, o: o[0])
    decoder.layers[0].register_forward_pre_hook(
        lambda m, inputs, options: seen.update(
            position_plus_level=options["position_embeddings"].expand(batch, -1, -1)[:1],
            reference_points=options["reference_points"][:1],
        ),
        with_kwargs=True,
    )
    scales, seen["p_dense"] = decoder(levels)
    seen |= {f"scale_{name}": scale for name, scale in zip(names, scales, strict=True)}
    sizes = [tuple(level.shape[-2:]) for level in reversed(levels)]
    assert torch.equal(seen["reference_points"], reference_points(sizes, torch.device("cpu")))
    for name, value in seen.items():
        golden.check(name, value, atol=5e-5)
    golden.complete()


@recordings("dfam*.safetensors")
def test_dfam(path):
    golden = Recording(path)
    c, batch = golden.config, golden.config["B"]
    dfam, seen = seed(Dfam(no_target=True, logit_scale=1.0, clamp=None), "bridge.queries."), {}
    for i in range(3):
        watch(dfam.carried[i].forward_layer, seen, f"x{i}")
        watch(dfam.side[i].forward_layer, seen, f"y{i}")
        for name, stream in (("sam", dfam.carried[i]), ("clip", dfam.side[i])):
            watch(stream.cross, seen, f"blocked_{name}{i}", lambda inputs, o: ~inputs[4])
    watch(dfam.carried[0].cross, seen, "x0_after_cross")
    watch(dfam.carried[0].among, seen, "x0_after_self")
    # two hooks on one module: the first keeps what may be looked at, the second the output
    watch(dfam.name_head, seen, "o_last")
    sam, clip = (
        tuple(golden.normal(f"dfam.{name}{i}", batch, 256, *size) for i, size in enumerate(c[f"{name}_levels"]))
        for name in ("sam", "clip")
    )
    names = Names(
        torch.cat((golden.normal("dfam.t_expr", batch, 768), golden.table())),
        golden.normal("dfam.l_cls", batch, 1, 256)[:, 0],
    )
    sam_map = golden.sam_map("dfam.fsam", batch, *c["sam_levels"][-1])
    outputs, absent = dfam(sam_map, sam, clip, names, torch.arange(batch))
    for i, output in enumerate(outputs):
        golden.check(f"masks{i}", output.masks, atol=1e-4)
        golden.check(f"clip_logits{i}", output.clip_logits, atol=1e-4)
        golden.check(f"bert_logits{i}", output.sentence_logits, atol=1e-4)
    golden.check("no_target_logits", absent, atol=1e-4)
    for name, value in seen.items():
        if name.startswith("blocked"):
            golden.exact(name, value)
            golden.exact(name.replace("blocked", "blocked_count"), value.sum(2))
        elif name in golden:
            golden.check(name, value, atol=1e-4)
    for name in ("sam", "clip"):
        for i in range(3):
            size = c[f"{name}_levels"][i]
            shrunk = functional.interpolate(outputs[i].masks, size=tuple(size), mode="bilinear", align_corners=False)
            golden.exact(f"whole_row_blocked_{name}{i}", (shrunk.sigmoid() < 0.5).flatten(2).all(2))
    golden.complete()


@recordings("sparse_token*.safetensors")
def test_sparse_token(path):
    golden = Recording(path)
    batch, length = golden.config["B"], golden.config["T"]
    token, linear = seed(SparseToken(), "bridge.sparse."), seed(nn.Linear(768, 256), "category_projection.")
    words = golden.normal("st.l", batch, length, 256)
    category = linear(golden.table()[golden.config["category_rows"]])
    golden.check("l_cat", category, **CLOSE)
    for name, query in (("category", category), ("cls", words[:, 0])):
        seen = {}
        handle = token.read.register_forward_hook(lambda m, i, o, seen=seen: seen.update(read=o))
        golden.check(f"{name}_token", token(query, words, None), **CLOSE)
        golden.check(f"{name}_after_cross", seen["read"], **CLOSE)
        handle.remove()
    golden.complete()


@recordings("sam_decoder*.safetensors")
def test_sam_decoder(path):
    golden = Recording(path)
    batch, seen = golden.config["B"], {}
    sam = Sam("mobile_sam")
    sam.encoder = nn.Identity()
    seed(sam, "sam.")
    watch(sam.mask_decoder.transformer, seen, "tokens_out", lambda i, o: o[0])
    watch(sam.mask_decoder.transformer, seen, "image_tokens_out", lambda i, o: o[1])
    watch(sam.mask_decoder.output_upscaling, seen, "upscaled")
    dense = golden.normal("sd.p_dense", batch, 256, *golden.config["dense_hw"])
    seen["dense64"] = functional.interpolate(dense, (sam.grid, sam.grid), mode="bicubic", align_corners=False)
    sparse = golden.normal("sd.p_sparse", batch, 1, 256)
    said = sam.decode_masks(golden.sam_map("sd.fsam", batch, 64, 64), sparse, seen["dense64"])
    seen |= {"all_masks": said.mask_logits, "iou": said.iou, "low_res_logits": said.mask_logits[:, :1]}
    seen["position"] = sam.prompt_encoder.get_dense_pe()
    seen["canvas"] = functional.interpolate(seen["low_res_logits"], (1024, 1024), mode="bilinear", align_corners=False)
    for name, value in seen.items():
        golden.check(name, value, **CLOSE)
    golden.complete()


@recordings("e2e*.safetensors")
def test_end_to_end(path):
    golden = Recording(path)
    c, batch = golden.config, golden.config["B"]
    grown = "no_target_logits" in golden
    net = network(golden, grown)
    seen = watched(net)
    tag = tag_of(path, "gres" if grown else "ris12" if "bert12" in path.stem else "ris")
    images = ImageFeatures(golden.sam_map(f"{tag}.fsam", batch, 64, 64), golden.normal(f"{tag}.v", batch, 576, 1024))
    ids, real = net.tokens(sentences(golden))
    golden.exact("token_ids", ids)
    golden.exact("text_mask", real)
    hidden = net.text.finish(net.text.run(net.text.embed(ids, real), real, 0, net.text.depth))
    golden.check("bert_hidden", hidden, atol=2e-4)
    rows = None if grown else torch.tensor(c["category_rows"])
    texts = net.query(net.word_projection(hidden), real, golden.normal(f"{tag}.t_expr", batch, 768), rows)
    net.train()  # the queries are asked in training only, unless there is a no-target head; dropout is 0
    pairs = torch.arange(batch)
    with torch.no_grad():
        said = net.segment(images, texts, pairs, pairs)
    if not grown:
        golden.check("l_cat", texts.query, atol=2e-4)
    golden.check("l_bert", texts.words, atol=2e-4)
    for name, value in seen.items():
        golden.check(name, value, atol=2e-4)
    exact = outputs_in_double(net, images, texts, pairs)
    for i, output in enumerate(exact):
        golden.check(f"masks{i}", output.masks, atol=1e-4, queries=3)
        golden.check(f"clip_logits{i}", output.clip_logits, atol=1e-4, queries=3)
        golden.check(f"bert_logits{i}", output.sentence_logits, atol=1e-4, queries=3)
    check_rounding(said.outputs, exact, seen)
    low = said.mask_logits
    golden.check("low_res_logits", low, atol=1e-4)
    canvas = functional.interpolate(low, (1024, 1024), mode="bilinear", align_corners=False).sigmoid()
    golden.check("canvas_probability", canvas, atol=1e-4)
    golden.exact("canvas_area", (canvas > 0.5).flatten(1).sum(1), within=3)
    check_original_size(golden, said, batch)
    if grown:
        golden.check("no_target_logits", said.target_logits, atol=1e-4)
        golden.check("no_target_sigmoid", said.target_logits.sigmoid(), atol=1e-4)
        golden.exact("no_target_decision", said.target_logits.argmax(1))
    golden.complete()


def outputs_in_double(net, images, texts, pairs):
    """The queries' outputs in float64, where no CPU's rounding decides whether a mask's edge is looked at."""
    net.bridge.double()
    images = ImageFeatures(images.sam.double(), images.clip.double())
    texts = TextFeatures(texts.words.double(), texts.real, texts.clip.double(), texts.query.double())
    with torch.no_grad():
        return net.bridge(images, texts, pairs, pairs, net.names(texts)[0]).outputs


def check_rounding(outputs, exact, seen):
    """Float32 is float64's answer, up to where an item's position within rounding of zero is decided otherwise."""
    alike = torch.ones(len(exact[0].masks), dtype=torch.bool)
    for i, (ours, theirs) in enumerate(zip(outputs, exact, strict=True)):
        for name in ("masks", "clip_logits", "sentence_logits"):
            apart = (getattr(ours, name) - getattr(theirs, name)).abs().flatten(1).amax(1)
            assert bool((apart[alike] <= 1e-4).all()), (i, name, apart)
        for side in ("sam_pyramid", "clip_scale") if i < 3 else ():
            size = seen[f"{side}_{('coarse', 'middle', 'fine')[i]}"].shape[-2:]
            alike &= (may_look(ours.masks, size) == may_look(theirs.masks, size)).flatten(1).all(1)
    assert alike.any()


def watched(net):
    """Hooks on every stage of the bridge that is recorded."""
    seen, levels = {}, ("fine", "middle", "coarse")
    bridge = net.bridge
    watch(bridge.fusion, seen, "fused", lambda i, o: o.transpose(1, 2).unflatten(2, (24, 24)))
    for i, name in enumerate(levels):
        watch(bridge.clip_pyramid.levels[i], seen, f"clip_pyramid_{name}")
        watch(bridge.sam_pyramid.levels[i], seen, f"sam_pyramid_{name}")
        watch(bridge.pixel_decoder, seen, f"clip_scale_{name}", lambda inputs, o, i=i: o[0][2 - i])
    watch(bridge.pixel_decoder, seen, "p_dense", lambda i, o: o[1])
    watch(bridge.sparse, seen, "p_sparse")
    return seen


def check_original_size(golden, said, batch):
    """The road of evaluation: one bilinear step to the picture's own size."""
    from rvos_lightning.core.inference import at_target_size

    size = tuple(golden.config["orig_hw"])
    meta = [ClipMeta(str(i), "0", ("0",), (64, 64), size, (0,)) for i in range(batch)]
    clip = Clip(torch.zeros(batch, 1, 3, 64, 64), torch.arange(batch), ["-"] * batch, meta)
    truth = Targets(torch.zeros(batch, 1, *size, dtype=torch.bool), torch.ones(batch, 1, dtype=torch.bool))
    logits = at_target_size(said.mask_logits, clip, truth)
    golden.check("original_size_logits", logits, atol=1e-4)
    golden.exact("original_size_area", (logits > 0).flatten(1).sum(1), within=3)

"""SgMg's parts against recordings of the official code. Tolerances: the recordings' README."""

import pytest
import torch
from sgmg_recordings import FOLDER, RESULTS, Recording, draw, files, matches, roberta, seed, sentences
from stated import check_kinds

from rvos_lightning.systems.sgmg.deformable import DeformableTransformer, EncoderLayer, Levels, split_levels
from rvos_lightning.systems.sgmg.fusion import Language, SpectrumFusion
from rvos_lightning.systems.sgmg.kernels import PatchKernels
from rvos_lightning.systems.sgmg.positions import place_code, word_code
from rvos_lightning.systems.sgmg.refiner import Refiner, pixels
from rvos_lightning.systems.sgmg.spectral import SpectralBlock, gaussian, gaussians
from rvos_lightning.systems.sgmg.video_swin import VideoSwin

pytestmark = pytest.mark.xdist_group("sgmg")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
KINDS = ("scf_block", "scf_chain", "cpk", "mso", "deform_attn", "transformer", "matcher", "losses", "backbone_", "text")
ENDS = ("e2e_infer_", "e2e_ris", "e2e_a2d", "e2e_train", "davis_merge")


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


def test_every_recording_is_of_a_kind_that_is_tested():
    """A kind without recordings here, or a recording anywhere that no test reads, would pass unseen."""
    check_kinds(FOLDER, KINDS + ENDS)


@recordings("scf_block*.safetensors")
@torch.no_grad()
def test_spectral_block(path):
    golden = Recording(path)
    shape = golden.config["shape"]
    block = SpectralBlock(shape[1])
    seed(block, "fusion.before.0.")
    x = draw("scf.x", shape)
    soft = gaussian(tuple(shape[2:]), golden.config["sigma"])
    keep = 1 - block.attenuation(x)[:, None] * soft
    kept = torch.fft.fft2(x) * keep[:, None]
    golden.check("gaussian", soft[None, None], **CLOSE)
    golden.check("coef", block.attenuation(x), **CLOSE)
    golden.check("filtered_real", kept.real, **CLOSE)
    golden.check("filtered_imag", kept.imag, **CLOSE)
    golden.check("spectral_delta", block.filtered(x, keep), **CLOSE)
    golden.check("out", block(x, soft), **CLOSE)
    golden.finish()


@recordings("scf_chain*.safetensors")
@torch.no_grad()
def test_chain_with_the_carried_gaussian(path):
    golden = Recording(path)
    c = golden.config
    fusion = SpectrumFusion((192, 384, 768))
    for parts, name in ((fusion.before, "before"), (fusion.after, "after")):
        for level in range(len(c["sizes"])):
            seed(parts[level], f"fusion.{name}.{level}.")
    seed(fusion.attention, "fusion.attention.")
    words, code = (draw(name, (c["L"], c["B"], 256)).transpose(0, 1) for name in ("scf.text", "scf.text_pos"))
    real = golden["text_key_padding_mask"] == 0
    soft = gaussians([tuple(size) for size in c["sizes"]], 7.0)
    for level, size in enumerate(c["sizes"]):
        x = draw(f"scf.x{level}", (c["B"] * c["T"], 256, *size))
        before = fusion.before[level](x, soft[level])
        fused = fusion.attend(before, words, real, code)
        golden.check(f"gaussian{level}", soft[level][None, None], **CLOSE)
        golden.check(f"pre{level}", before, **CLOSE)
        golden.check(f"fused{level}", fused, **CLOSE)
        golden.check(f"post{level}", fusion.after[level](fused, soft[level]), **CLOSE)
    golden.finish()


@recordings("cpk*.safetensors")
@torch.no_grad()
def test_patch_kernels(path):
    golden = Recording(path)
    c = golden.config
    b, t, q, h, w = (c[name] for name in "btqhw")
    kernels = PatchKernels()
    assert kernels.splits == [*c["weight_nums"], *c["bias_nums"]]
    seed(kernels, "kernels.")
    states = draw("cpk.hs", (b * t, q, 256))[None]
    features = draw("cpk.features", (b, t, 256, h, w)).flatten(0, 1)
    references = draw("cpk.reference", (b, t * q, 2)).sigmoid().view(1, b * t, q, 2)
    centres = references * golden["sizes_hw"].flip(-1).repeat_interleave(t, 0)[None, :, None]
    golden.check("params", kernels.kernels(states).view(b, t * q, -1), **CLOSE)
    patch = kernels(features, states, centres)[0]
    golden.check("patch_mask", patch.view(b, t * q, 16, h, w), **CLOSE)
    golden.check("shuffled", pixels(patch, 4).flatten(0, 1), **CLOSE)
    raw = draw("cpk.params", (b, t * q, sum(kernels.splits))).view(1, b * t, q, -1)
    masks = kernels.apply_kernels(raw, features, centres).view(b, t * q, 16, h, w)
    golden.check("patch_mask_rawparams", masks, atol=0, of_greatest=1e-5)
    golden.check("locations", kernels.cells(features)[0].flatten(1).T, atol=0)
    golden.finish()


@recordings("mso*.safetensors")
@torch.no_grad()
def test_refiner(path):
    golden = Recording(path)
    n, h, w = (golden.config[name] for name in "nhw")
    refiner = Refiner((96, 192))
    seed(refiner, "refiner.")
    coarse, fine = draw("mso.feat8", (n, 192, h, w)), draw("mso.feat4", (n, 96, 2 * h, 2 * w))
    refined = refiner(draw("mso.patch_mask", (n, 16, h, w)), refiner.see(fine, coarse))
    golden.check("refined", refined, **CLOSE)
    golden.check("mask_logits", pixels(refined, 4)[:, None], **CLOSE)
    golden.finish()


@recordings("deform_attn*.safetensors")
@torch.no_grad()
def test_deformable_attention(path):
    golden = Recording(path)
    c = golden.config
    n, queries, sizes = c["N"], c["Lq"], [tuple(size) for size in c["shapes"]]
    places = sum(h * w for h, w in sizes)
    attention = EncoderLayer(256, 8, len(sizes), 4, 8, 0.0).attention
    real = golden["padding_mask"] == 0
    source = draw("deform.src", (n, places, 256))
    empty = source.new_zeros(n, places, 256)
    levels = Levels(source, empty, real, sizes, source.new_ones(n, len(sizes), 2))
    seen = {}
    attention.attn.register_forward_hook(lambda m, i, out: seen.update(locations=i[4], weights=i[5]))
    core = attention.attn(
        draw("deform.value", (n, places, 8, 32)),
        *(levels.attend()[name] for name in ("spatial_shapes", "spatial_shapes_list", "level_start_index")),
        0.5 + 0.35 * draw("deform.locations", (n, queries, 8, len(sizes), 4, 2)),
        draw("deform.weights", (n, queries, 8, len(sizes) * 4)).softmax(-1).unflatten(-1, (len(sizes), 4)),
        64,
    )
    golden.check("core_out", core, **CLOSE)
    for scaled in ("", "scaled_"):
        seed(attention, "transformer.encoder.0.attention.")
        if scaled:
            for name, parameter in attention.named_parameters():
                parameter.mul_(next((by for end, by in c["scaled"].items() if matches(name, end)), 1.0))
        for kind in ("ref2", "ref4"):
            references = draw(f"deform.{kind}", (n, queries, len(sizes), int(kind[-1]))).sigmoid()
            out = attention(
                hidden_states=draw("deform.query", (n, queries, 256)),
                encoder_hidden_states=source,
                reference_points=references,
                **levels.attend(),
            )[0]
            golden.check(f"{scaled}module_out_{kind}", out, **CLOSE)
            stored = "scaled_attn_" if scaled else "module_locations_"
            golden.check(stored + kind, seen["weights" if scaled else "locations"], **CLOSE)
    golden.finish()


@recordings("transformer*.safetensors")
@torch.no_grad()
def test_transformer(path):
    golden = Recording(path)
    c = golden.config
    b, t, sizes = c["b"], c["t"], c["shapes"]
    transformer = DeformableTransformer(dropout=0.0, levels=len(sizes)).eval()
    seed(transformer, "transformer.")
    padding = [golden[f"mask{level}"].bool() for level in range(len(sizes))]
    maps = [draw(f"tr.src{level}", (b * t, 256, *size)) for level, size in enumerate(sizes)]
    levels = transformer.levels(maps, padding)
    for level, mask in enumerate(padding):
        golden.check(f"pos{level}", place_code(mask, 256), **CLOSE)
    golden.check("valid_ratios", levels.ratios, **CLOSE)
    memory = transformer.encode(levels)
    for level, part in enumerate(split_levels(memory)[:3]):
        golden.check(f"memory{level}", part, **CLOSE)
    decoded = transformer.decode(memory, draw("tr.sentence", (b, 256)).repeat_interleave(t, 0))
    golden.check("hs", decoded.states, **CLOSE)
    golden.check("init_reference", decoded.start, **CLOSE)
    golden.check("inter_references", decoded.boxes, **CLOSE)
    golden.finish()


@recordings("backbone_*.safetensors")
@torch.no_grad()
def test_backbone(path):
    golden = Recording(path)
    swin = VideoSwin(path.stem.split("_")[1][0]).eval()
    seed(swin, "backbone.")
    for frames, height, width in golden.config["cases"]:
        name = f"{frames}x{height}x{width}"
        for stage, tap in enumerate(swin(draw(f"bb.{name}", (1, frames, 3, height, width)[1:])[None])):
            golden.check(f"{name}.tap{stage}", tap, **CLOSE)
    golden.finish()


@recordings("text*.safetensors")
@torch.no_grad()
def test_text(path):
    golden = Recording(path)
    language = Language(roberta(golden.config["layers"], golden.config["vocab"]), dropout=0.0).eval()
    seed(language, "language.")
    texts = sentences(golden["input_ids"], golden["attention_mask"])
    ids, real = language.text.tokenize(texts)
    assert torch.equal(ids, golden["input_ids"]) and torch.equal(~real, golden["pad_mask"].bool())
    states, real, pooled = language.text(texts)
    words, real, sentence = language(texts)
    golden.check("last_hidden_state", states, **CLOSE)
    golden.check("pooler_output", pooled, **CLOSE)
    golden.check("word_proj", words, **CLOSE)
    golden.check("sentence_proj", sentence, **CLOSE)
    golden.check("text_pos_bcl", word_code(real, 256).transpose(1, 2), **CLOSE)
    golden.finish()

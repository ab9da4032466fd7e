"""Weights by flag: what a file covers needs no other, tokenizers travel inside, wrong files say what they are."""

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.segmenters.sam2_build import told_by
from rvos_lightning.parts.segmenters.sam_keys import told_by as sam_told_by
from rvos_lightning.parts.starting import Start, start_from, starting_from
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.parts.text.tokenizers import HubTokenizer
from rvos_lightning.parts.weights import WeightsError, load_official, save
from rvos_lightning.run.cli import main
from rvos_lightning.systems.sa2va.two_decoders import TwoDecoderSam2

SMALL = TextSize(vocabulary=0, width=8, layers=1, heads=1, mlp=8, positions=14)


@pytest.fixture
def folder(tmp_path):
    """A published text encoder: its tokenizer alone, in a folder."""
    backend = Backend(WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "dog": 5}, unk_token="<unk>"))
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    from tokenizers.pre_tokenizers import Whitespace

    backend.pre_tokenizer = Whitespace()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "words")
    return str(tmp_path / "words")


class Net(torch.nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def test_a_stored_tokenizer_reads_as_its_folder_does(folder):
    from_folder = HubTokenizer(folder)
    stored = HubTokenizer(from_folder.stored())
    assert stored("a dog runs") == from_folder("a dog runs") == [0, 4, 5, 3, 2]
    assert (stored.pad, stored.end, stored.size) == (from_folder.pad, from_folder.end, from_folder.size) == (1, 2, 6)


def test_a_file_that_covers_a_part_is_all_that_is_opened(folder, tmp_path):
    saved = Net(text=Roberta(tokenizer=folder, size=SMALL))
    save(saved.state_dict(), tmp_path / "all.safetensors", {"tokenizer": HubTokenizer(folder).stored()})
    with starting_from(tmp_path / "all.safetensors"):
        net = Net(text=Roberta(weights=str(tmp_path / "absent"), size=TextSize(6, 8, 1, 1, 8, 14)))
        start_from(net, tmp_path / "all.safetensors")
    assert net.text.tokenizer("a dog") == [0, 4, 5, 2]
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in net.state_dict().items())
    assert not hasattr(net.text, "weights_source")  # nothing else holds it: checkpoints keep it


def test_what_a_file_lacks_is_read_from_the_parts_own_path(tmp_path):
    torch.manual_seed(0)
    own, other = (Sam2("narrow", image_size=32) for _ in range(2))
    save(own.state_dict(), tmp_path / "sam.safetensors")
    save({"rest.weight": torch.zeros(2, 2), "rest.bias": torch.zeros(2)}, tmp_path / "start.safetensors")
    with starting_from(tmp_path / "start.safetensors"):
        sam = Sam2("narrow", image_size=32, weights=str(tmp_path / "sam.safetensors"))
        net = Net(segmenter=sam, rest=torch.nn.Linear(2, 2))
        start_from(net, tmp_path / "start.safetensors")
    assert torch.equal(sam.no_mem_embed, own.no_mem_embed) and not torch.equal(other.no_mem_embed, own.no_mem_embed)
    assert not net.rest.weight.any()
    with starting_from(tmp_path / "start.safetensors"):
        net = Net(segmenter=Sam2("narrow", image_size=32, weights="nowhere.pt"), rest=torch.nn.Linear(2, 2))
        with pytest.raises(WeightsError, match=r"start.safetensors lacks \d+ keys of segmenter.*nowhere.pt"):
            start_from(net, tmp_path / "start.safetensors")


def test_a_second_decoder_that_a_file_lacks_is_read_from_what_the_package_brings(tmp_path):
    given = {"variant": "narrow", "image_size": 64, "weights": "small/sam2", "half_positions": False}
    saved = Net(segmenter=TwoDecoderSam2(**given)).state_dict()
    own = {key: value for key, value in saved.items() if ".original_decoder." not in key}
    save(own, tmp_path / "start.safetensors")
    with starting_from(tmp_path / "start.safetensors"):
        net = Net(segmenter=TwoDecoderSam2(**given))
        start_from(net, tmp_path / "start.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in net.state_dict().items())
    assert net.segmenter.decoder("original") is not None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("cmt_adapters.0.down.weight", "SAMWISE's official file: convert it: python -m rvos_lightning convert samwise"),
        ("image_encoder.trunk_video.stem.weight", "convert sam_i2v"),
        ("grounding_encoder.sam2_model.no_mem_embed", "convert sa2va"),
        ("memory_attention.norm.weight", "SAM 2's own: give it to --model.network.segmenter.weights"),
        ("image_encoder.patch_embed.seq.0.c.weight", "an image SAM's own file: give it to"),
    ],
)
def test_a_file_that_belongs_elsewhere_says_where(key, words, tmp_path):
    torch.save({"model": {key: torch.zeros(2)}}, tmp_path / "official.pth")
    with pytest.raises(WeightsError, match=words):
        Start.open(tmp_path / "official.pth")


def test_wrong_variants_are_named_with_their_flags(tmp_path):
    keys = [f"image_encoder.trunk.blocks.{i}.norm1.weight" for i in range(24)]
    assert "--model.network.segmenter.variant hiera_b+ --model.network.segmenter.version 2.1" in told_by(
        [*keys, "no_obj_embed_spatial"]
    )
    assert "--model.weights" in told_by([f"segmenter.{key}" for key in keys])
    torch.save({"image_encoder.features.0.0.c.weight": torch.zeros(2)}, tmp_path / "edge_sam.pth")
    with pytest.raises(WeightsError, match="it is EdgeSAM: --model.network.segmenter.variant edge_sam"):
        Sam("small", weights=tmp_path / "edge_sam.pth")
    for kind, other in {"small": "small_edge_sam", "small_edge_sam": "small", "small_sam_b": "small_slim_sam"}.items():
        torch.save(Sam(kind).state_dict(), tmp_path / "own.pth")
        with pytest.raises(WeightsError, match=f"--model.network.segmenter.variant {kind} "):
            Sam(other, weights=tmp_path / "own.pth")
    with torch.device("meta"):
        assert "tiny_sam or mobile_sam" in sam_told_by(Sam("tiny_sam").state_dict())
        assert sam_told_by(Sam("edge_sam").state_dict()).endswith(" edge_sam")


def test_predict_without_a_tokenizer_says_which_flag_gives_one(run, tmp_path, monkeypatch):
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "empty"))
    save({"segmenter.no_mem_embed": torch.zeros(1)}, tmp_path / "ours.safetensors")
    with pytest.raises(SystemExit) as stop:
        run("predict", "-c", "configs/paper/samwise_mevis.yaml", "--model.weights", tmp_path / "ours.safetensors",
            "--data", "rvos_lightning.data.VideoFiles", "--data.path", "tests/data/horsejump/frames",
            "--data.expressions", '["the horse"]', "--model.network.adapter.text.tokenizer", tmp_path)  # fmt: skip
    assert "--model.network.adapter.text.tokenizer" in str(stop.value.code) and "convert" in str(stop.value.code)


def test_convert_keeps_a_tokenizer_in_the_file(folder, tmp_path, capsys):
    from argparse import Namespace

    from rvos_lightning.run.convert import keep_tokenizer

    save({"x": torch.ones(2)}, tmp_path / "ours.safetensors", {"system": "samwise"})
    told = keep_tokenizer(Namespace(tokenizer=folder, export=False, destination=tmp_path / "ours.safetensors"))
    start = Start.open(tmp_path / "ours.safetensors")
    assert "6 ids" in told and start.said["system"] == "samwise" and torch.equal(start.state["x"], torch.ones(2))
    assert HubTokenizer(start.said["tokenizer"])("dog") == [0, 5, 2]
    assert main(["convert", "samwise", "nothere.pth", str(tmp_path / "o.safetensors"), "--tokenizer", folder]) == 2
    assert "no such checkpoint" in capsys.readouterr().err


def test_a_header_whose_length_looks_like_a_pickle(tmp_path):
    """One file in 32: lengths are multiples of 8, so that their first byte may be a pickle's 0x80."""
    path = tmp_path / "x.safetensors"
    for count in range(64):
        save_file({"weight": torch.ones(2)}, path, {"said": "x" * 8 * count})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert torch.equal(load_official(path)["weight"], torch.ones(2))
    assert torch.equal(load_official(path.rename(tmp_path / "x.pth"))["weight"], torch.ones(2))


@pytest.mark.parametrize("more", [(), ("--export",)])
@pytest.mark.parametrize("taken", ["ours.safetensors", "folder"])
def test_convert_overwrites_nothing(tmp_path, capsys, taken, more):
    from rvos_lightning.run.cli import main

    (tmp_path / "folder").mkdir()
    for name in ("ours.safetensors", "folder/ours.safetensors"):
        (tmp_path / name).write_bytes(b"hours of work")
    system = "sa2va" if taken == "folder" else "samwise"
    assert main(["convert", system, str(tmp_path / "nothing.pth"), str(tmp_path / taken), *more]) == 2
    assert "is there already, and nothing is overwritten" in capsys.readouterr().err
    assert (tmp_path / "folder/ours.safetensors").read_bytes() == b"hours of work"
    assert (tmp_path / "ours.safetensors").read_bytes() == b"hours of work"


@pytest.mark.parametrize("name", ["ours.safetensors", "ours"])
def test_a_conversion_that_fails_leaves_nothing_and_what_a_kill_left_is_in_no_way(tmp_path, monkeypatch, capsys, name):
    from rvos_lightning.parts.weights import WeightsError
    from rvos_lightning.run import convert

    def half(options):
        options.destination.mkdir() if name == "ours" else options.destination.write_bytes(b"half")
        if fails:
            raise WeightsError("the second half is not there")
        return f"used all for {options.destination}"

    monkeypatch.setattr(convert, "converted", half)
    fails, words = True, ["convert", "samwise", "official.pth", str(tmp_path / name)]
    assert main(words) == 2 and "second half" in capsys.readouterr().err and not list(tmp_path.iterdir())
    left = tmp_path / f".ours.partial{'.safetensors' if '.' in name else ''}"
    left.mkdir() if name == "ours" else left.write_bytes(b"left by a kill")
    fails = False
    assert main(words) == 0 and [path.name for path in tmp_path.iterdir()] == [name]
    assert f"used all for {tmp_path / name}\nwrote {tmp_path / name}" in capsys.readouterr().out

"""What a fine-tuning trains: by name, on any linear layers, from plain weights, and back to plain weights."""

import pytest
import torch
from torch import nn

from rvos_lightning.parts.starting import start_from, starting_from
from rvos_lightning.parts.tuning import LowRank, Tuning, merged
from rvos_lightning.parts.weights import freeze, save

GROUPS = {"head": [r"head\."], "encoder": [r"encoder\.layers\."]}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return x + self.linear2(self.linear1(x).relu())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential()
        self.encoder.layers = nn.ModuleList([Block(), Block()])
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)
        freeze(self.encoder)

    def forward(self, x):
        for block in self.encoder.layers:
            x = block(x)
        return self.head(self.norm(x.transpose(1, 2)).transpose(1, 2))


def trainable(network):
    return {name for name, p in network.named_parameters() if p.requires_grad}


def tuned(*train, network=None, **more):
    network = Net() if network is None else network
    Tuning(list(train), GROUPS, **more).apply(network)
    return network


def test_a_group_alone():
    network = tuned("head").train()
    assert trainable(network) == {"head.weight", "head.bias"}
    assert network.head.training and not network.norm.training and not network.encoder.training


def test_what_the_parts_froze_is_thawed():
    network = tuned("encoder").train()
    assert all(name.startswith("encoder.layers.") for name in trainable(network)) and len(trainable(network)) == 16
    assert network.encoder.training and network.encoder.layers[0].training and not network.head.training
    assert not network.eval().encoder.layers[0].training


def test_everything_but_what_never_is():
    network = tuned("all", never=[r"norm\."]).train()
    assert not any(name.startswith("norm.") for name in trainable(network)) and len(trainable(network)) == 18
    assert not network.norm.training and network.encoder.layers[1].training


def test_low_rank_adapters_start_as_the_network_and_take_its_weights():
    torch.manual_seed(0)
    plain, x = Net().eval(), torch.randn(2, 5, 8)
    before = plain(x)
    network = tuned("lora", "head", network=plain, lora=LowRank((r"encoder\..*linear", "head"), 2, 8)).eval()
    torch.testing.assert_close(network(x), before)  # attention has other kernels where gradients are wanted
    assert {name.split(".lora_")[0] for name in trainable(network) if "lora_" in name} == {
        f"encoder.layers.{n}.linear{m}" for n in (0, 1) for m in (1, 2)
    } | {"head"}
    assert "head.base_layer.weight" in trainable(
        network
    ) and "encoder.layers.0.linear1.base_layer.weight" not in trainable(network)
    network.train()(x).sum().backward()
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "lora_B" in name:
                assert p.grad is not None
                p.add_(torch.randn_like(p))
    network.eval()
    again = Net().eval()
    again.load_state_dict(merged(network.state_dict()))  # strict: plain names only
    torch.testing.assert_close(again(x), network(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(network(x), before)


def test_layers_that_attention_reads_past_the_adapter_are_left_out():
    names = Tuning(["lora"]).linears(Net())
    assert len(names) == 5 and not any("out_proj" in name for name in names)
    layer = nn.ModuleDict({"a": nn.TransformerEncoderLayer(8, 2, 16), "b": nn.Linear(8, 8)})
    assert Tuning(["lora"]).linears(layer) == ["b"]


def test_a_file_with_adapters_and_one_without(tmp_path):
    torch.manual_seed(0)
    plain, x = Net().eval(), torch.randn(2, 5, 8)
    save(plain.state_dict(), tmp_path / "plain.safetensors")
    tune = Tuning(["lora"], lora=LowRank(rank=2))
    first = Net()
    with starting_from(tmp_path / "plain.safetensors"):
        assert not tune.saved(first)
        start_from(first, tmp_path / "plain.safetensors")
    tune.apply(first)
    torch.testing.assert_close(first.eval()(x), plain(x))
    with torch.no_grad():
        for p in first.parameters():
            p.add_(0.1)
    save(first.state_dict(), tmp_path / "tuned.safetensors")
    second = Net()
    with starting_from(tmp_path / "tuned.safetensors"):
        assert tune.saved(second)
        tune.insert(second)
        start_from(second, tmp_path / "tuned.safetensors")
    tune.apply(second)
    assert torch.equal(second.eval()(x), first.eval()(x))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Tuning([]), "nothing is none of lora, all"),
        (lambda: Tuning(["heads"], GROUPS), "'heads' is none of head, encoder, lora, all"),
        (lambda: Tuning(["lora"], lora=LowRank(rank=0)), "rank is 0"),
        (lambda: tuned("lora", lora=LowRank(("decoder",))), "match no linear layer, such as encoder.layers.0.linear1"),
        (lambda: Tuning(["head"], {"head": ["tail"]}).apply(Net()), "'tail' matches no parameter, such as encoder"),
        (lambda: tuned("head", never=["head"]), "leave nothing to train"),
    ],
)
def test_what_cannot_be_meant(call, words):
    with pytest.raises(ValueError, match=words):
        call()


RUN = ["-c", "configs/tiny.yaml", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2",
       "--trainer.accelerator", "cpu", "--trainer.check_val_every_n_epoch", "null", "--data.batch_size", "2",
       "--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0",
       "--trainer.enable_progress_bar", "false"]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_a_run_resumes_is_evaluated_and_becomes_plain(run, tmp_path):
    """fit -> fit with adapters from its weights -> goes on -> validate -> convert run --merge -> validate without."""
    from rvos_lightning.run.cli import main

    run("fit", *RUN, folder=tmp_path / "base")
    tune = ["--model.tune", "Tuning", "--model.tune.train", "[lora]", "--model.tune.lora", '{"rank": 2}']
    base = ["--model.weights", tmp_path / "base" / "checkpoints" / "last.ckpt"]
    first = run("fit", *RUN, *tune, *base, "--trainer.max_steps", 4, folder=tmp_path / "whole")
    assert all("lora_" in name for name, p in first.model.network.named_parameters() if p.requires_grad)
    run("fit", *RUN, *tune, *base, folder=tmp_path / "cut")
    again = run("fit", *RUN, *tune, *base, "--trainer.max_steps", 4, "--ckpt_path", "last", folder=tmp_path / "cut")
    for key, value in first.model.network.state_dict().items():
        assert torch.equal(value, again.model.network.state_dict()[key]), key
    last = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    alone = [*RUN[:2], "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1"]
    alone += ["--trainer.enable_progress_bar", "false"]
    with_adapters = run("validate", *alone, *tune, "--model.weights", last, folder=tmp_path / "a")
    assert main(["convert", "run", str(last), str(tmp_path / "plain.safetensors"), "--merge"]) == 0
    plain = run("validate", *alone, "--model.weights", tmp_path / "plain.safetensors", folder=tmp_path / "b")
    one, two = (float(done.trainer.callback_metrics["val/j_and_f"]) for done in (with_adapters, plain))
    assert one == pytest.approx(two, abs=1e-4)
    assert not any("lora" in name for name in plain.model.network.state_dict())

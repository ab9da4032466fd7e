"""What a fine-tuning trains, by name: groups of parameters, low-rank adapters on any linear layers, or everything."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rvos_lightning.parts.starting import LORA, outside_adapter, started
from rvos_lightning.parts.weights import freeze, thaw

SCALE = "lora_scale"
"""Buffer of a network with low-rank adapters: alpha / rank, beside the weights, so that a merge needs nothing else."""


@dataclass(frozen=True)
class LowRank:
    """Low-rank adapters (LoRA, Hu et al. 2021): W + alpha / rank * B A, of which A and B are trained; B starts at 0.

    Attributes:
        targets: regular expressions matched from the start of the names of linear layers.
        rank: columns of B.
        alpha: numerator of the scale.
        dropout: on what enters A.
    """

    targets: Sequence[str] = (".*",)
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


class Tuning:
    """Chooses what is trained; everything else is frozen, in eval mode.

    Args:
        train: names of groups, "lora", or "all".
        groups: name -> regular expressions, matched from the start of parameters' names.
        lora: the adapters that "lora" means.
        never: regular expressions of parameters that stay frozen in any case.

    Raises:
        ValueError: a name that is no group, or a rank below 1.
    """

    def __init__(
        self,
        train: list[str],
        groups: dict[str, list[str]] | None = None,
        lora: LowRank | None = None,
        never: list[str] | None = None,
    ) -> None:
        self.train, self.groups, self.never = list(train), dict(groups or {}), list(never or [])
        self.lora = (lora or LowRank()) if "lora" in self.train else None
        known = [*self.groups, "lora", "all"]
        if not self.train or (unknown := [name for name in self.train if name not in known]):
            what = repr(unknown[0]) if self.train else "nothing"
            raise ValueError(f"model.tune.train: {what} is none of {', '.join(known)}")
        if self.lora is not None and self.lora.rank < 1:
            raise ValueError(f"model.tune.lora.rank is {self.lora.rank}; it must be at least 1")

    def saved(self, network: nn.Module) -> bool:
        """Whether the file that the network starts from has the adapters: they must be there before it is read."""
        start = started()
        return start is not None and any(f"{name}.base_layer.weight" in start.state for name in self.linears(network))

    def insert(self, network: nn.Module) -> None:
        """Put the adapters in; nothing without "lora", or where they are in already.

        Raises:
            ValueError: targets match no linear layer.
        """
        if self.lora is None or hasattr(network, SCALE):
            return
        from peft import LoraConfig, inject_adapter_in_model

        pattern = "|".join(map(re.escape, self.linears(network)))
        config = LoraConfig(
            r=self.lora.rank, lora_alpha=self.lora.alpha, lora_dropout=self.lora.dropout, target_modules=pattern,
            bias="none",
        )  # fmt: skip
        wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
        inject_adapter_in_model(config, network)
        for name, parameter in network.named_parameters():  # freezing is decided in `apply`, for all choices alike
            parameter.requires_grad_(wanted.get(outside_adapter(name), True))
        network.register_buffer(SCALE, torch.tensor(self.lora.alpha / self.lora.rank))

    def linears(self, network: nn.Module) -> list[str]:
        """Names of the linear layers that "lora" means.

        Layers inside torch's own attention and encoder layers are left out: those read weights past the adapter, the
        latter in evaluation only.
        """
        if self.lora is None:
            return []
        past = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
        inside = [name for name, module in network.named_modules() if isinstance(module, past)]
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        names = [name for name in names if not LORA.search(f".{name}.") and name.rpartition(".")[0] not in inside]
        found = [name for name in names if any(re.match(target, name) for target in self.lora.targets)]
        if not found:
            few = ", ".join(names[:3])
            raise ValueError(f"model.tune.lora.targets {list(self.lora.targets)} match no linear layer, such as {few}")
        return found

    def apply(self, network: nn.Module) -> None:
        """Freeze and thaw.

        Raises:
            ValueError: an expression of a chosen group matches no parameter, or nothing is left to train.
        """
        self.insert(network)
        chosen = set(self.chosen(network))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in chosen)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError(f"model.tune: {', '.join(self.train)} leave nothing to train")
        settle(network)

    def chosen(self, network: nn.Module) -> Iterator[str]:
        """Names of the parameters to train."""
        named = dict(network.named_parameters())
        patterns = [(name, pattern) for name in self.train for pattern in self.groups.get(name, ())]
        for group, pattern in patterns:
            if not any(re.match(pattern, name) for name in named):
                raise ValueError(
                    f"model.tune.groups.{group}: {pattern!r} matches no parameter, such as {next(iter(named))}"
                )
        for name, parameter in named.items():
            own = outside_adapter(name)
            adapter = self.lora is not None and LORA.search(name) is not None
            wanted = adapter or "all" in self.train or any(re.match(pattern, own) for _, pattern in patterns)
            if wanted and parameter.is_floating_point() and not any(re.match(never, own) for never in self.never):
                yield name


def settle(module: nn.Module) -> None:
    """Eval mode for the largest parts in which nothing is trained, the usual modes for all others."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        if any(True for _ in module.parameters()):
            freeze(module)
        return
    thaw(module)
    for child in module.children():
        settle(child)


def merged(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A tuned network's state with its adapters added to the layers they are on, as any network of its kind loads it.

    W + scale * B A in 32 bit, then W's own type. Adapters of a part that keeps a scale of its own (Sa2VA's) stay.
    """
    if SCALE not in state:
        return dict(state)
    own = tuple(key.removesuffix(SCALE) for key in state if key.endswith(f".{SCALE}") and float(state[key]))
    scale = float(state[SCALE])
    result: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if key == SCALE or LORA.search(key) and not key.startswith(own or ("\0",)):
            continue
        if ".base_layer." not in key or key.startswith(own or ("\0",)):
            result[key] = tensor
            continue
        stem, leaf = key.split(".base_layer.")
        if leaf == "weight":
            down, up = (state[f"{stem}.lora_{part}.default.weight"].float() for part in "AB")
            tensor = (tensor.float() + scale * (up @ down)).to(tensor.dtype)
        result[f"{stem}.{leaf}"] = tensor
    return result

"""A trained network or a part of it as a file of this package: half precision, with what made it and what it reached.

    rvos convert part RUN NAME.safetensors --part backbone --recipe configs/foundations/NAME.yaml
    rvos convert part RUN NAME.safetensors --whole --recipe configs/NAME.yaml

In `rvos_lightning/foundations`, recipes start from it by `weights: small/NAME`, as they would from a published file.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rvos_lightning.parts.weights import WeightsError, reproducible_prefixes, save
from rvos_lightning.run.card import commit
from rvos_lightning.run.words import read_yaml

Leaf = tuple[tuple[str, ...], Any]


def save_part(run: Path, destination: Path, part: str, recipe: Path, whole: bool = False) -> str:
    """Write one part of a run's network in half precision; returns a line about it.

    Args:
        run: folder of a finished run of the recipe.
        destination: file to write.
        part: its name inside the network, e.g. `backbone` or `text.model`; empty with `whole`: the network itself, but
            for frozen parts that the recipe reads from their own files.
        recipe: configuration that the run was made with.
        whole: keep the rest of the network, too: `small/NAME` is still the part, and `model.weights: small/NAME` with
            the recipe the network that was scored.

    Raises:
        WeightsError: no run, a run of other values, or no such part.
    """
    from transformers import PretrainedConfig

    from rvos_lightning.run.model import load

    if not (run / "config.yaml").is_file():
        raise WeightsError(f"{run}: no config.yaml in it, so no run")
    said, made = read_yaml(recipe), read_yaml(run / "config.yaml")
    if differing := sorted(differences(said, made)):
        raise WeightsError(f"{run} is no run of {recipe}: {differing[0]} differs; train that recipe as it is")
    network = load(run, run / "checkpoints" / "last.ckpt").network
    parts = dict(network.named_modules())
    if part not in parts or not (part or whole):
        known = ", ".join(name for name in parts if name and "." not in name)
        raise WeightsError(f"the network of {run} has no part {part!r}; e.g. {known}, or --whole alone")
    kept = (network if whole else parts[part]).state_dict()
    elsewhere = () if part else tuple(reproducible_prefixes(network))
    state = {k: v.half() if v.is_floating_point() else v for k, v in kept.items() if not k.startswith(elsewhere)}
    about = {
        "part": part,
        "recipe": recipe.name,
        "recipe_sha256": recipe_hash(recipe),
        "commit": commit(),
        "seed": str(made.get("seed_everything", 0)),
        "figures": json.dumps(figures(run)),
        **({"whole": "true"} if whole else {}),
    }
    if isinstance(config := getattr(parts[part], "config", None), PretrainedConfig):
        about["config"] = config.to_json_string(use_diff=False)
    save(state, destination, about)
    numbers, size = sum(value.numel() for value in state.values()), destination.stat().st_size / 2**10
    return f"{len(state)} tensors, {numbers:,} numbers, {size:.0f} KiB; {about['figures']}"


def recipe_hash(recipe: Path) -> str:
    """Of what a recipe says; comments do not count."""
    return hashlib.sha256(json.dumps(read_yaml(recipe), sort_keys=True).encode()).hexdigest()


def figures(run: Path) -> dict[str, float]:
    """The scores of a run's last validation, by name.

    Raises:
        WeightsError: it was never validated.
    """
    file = run / "scores.json"
    scores = json.loads(file.read_text()).get("val") if file.is_file() else None
    if scores is None:
        raise WeightsError(f"{run} has no scores of a validation in scores.json; train it to the end")
    return {key: round(value, 4) for key, value in scores.items() if isinstance(value, int | float)}


def differences(recipe: Any, run: Any) -> Iterator[str]:
    """Names of the numbers and switches of a recipe that a run was made with other values of."""
    there = dict(leaves(run))
    for path, value in leaves(recipe):
        if isinstance(value, int | float) and path in there and there[path] != value:
            yield ".".join(path)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every value in nested mappings and lists, with its path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, str(key)))
    else:
        yield path, value

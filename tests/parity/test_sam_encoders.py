"""Every image-SAM encoder against its recording, through the official checkpoint's key map."""

from pathlib import Path

import pytest
import torch
from once import sharp_first
from torch import Tensor, nn

from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.segmenters.sam_keys import key_map, tiny_vit_rules
from rvos_lightning.parts.weights import KeyMap
from tests.parity.sam_i2v_rule import Recording, fill, given, recordings

VARIANTS = {"sam_vit_b": "sam_b", "i2v_trunk": "tiny_sam"}


def load(sam: Sam, recording: Recording) -> None:
    """Fill the encoder by the rule: official names are found by running the key map backwards."""
    trunk = recording.name == "encoder_i2v_trunk"
    rules = KeyMap(tiny_vit_rules("image_encoder.trunk_image.")) if trunk else key_map(sam.family)
    back = names_of(rules, sam, "image_encoder.trunk_image." if trunk else "image_encoder.")
    fill(sam.encoder, {name.removeprefix("encoder."): key for name, key in back.items()}, recording.sharp)


def names_of(rules: KeyMap, sam: Sam, start: str) -> dict[str, str]:
    """Our encoder keys -> official keys, from the recorded key lists."""
    import json

    folder = Path(__file__).parents[1] / "golden" / "state_dicts"
    for file in sorted(folder.glob("*.json")):
        keys = {key: torch.empty(0) for key, *_ in json.loads(file.read_text()) if key.startswith(start)}
        renamed = {name: key for key in keys for name in rules.rename({key: keys[key]}).state}
        if all(f"encoder.{key}" in renamed for key, v in sam.encoder.state_dict().items() if v.is_floating_point()):
            return renamed
    raise AssertionError("no key list fits")


@pytest.mark.parametrize("path", sharp_first(recordings("encoder_*")))
def test_encoder(path: Path) -> None:
    recording = Recording(path)
    name = recording.name.removeprefix("encoder_")
    sam = Sam(VARIANTS.get(name, name)).eval()
    load(sam, recording)
    seen: dict[str, Tensor] = {}
    hook(sam, seen)
    with torch.inference_mode():
        levels = sam.encoder(given("enc.image", 1, 3, sam.image_size, sam.image_size), lambda i, x: keep(seen, i, x))
    seen["embedding"] = levels[-1]
    first = int(sam.family == "tiny_vit")  # its level 0, the patch embedding, is no level of ours: hooked
    seen |= {f"level{i + first}": level for i, level in enumerate(levels)}
    bound = 3e-3 if name == "sam_vit_b" and recording.sharp else 1e-3
    for key in (key for key in recording if not key.endswith(".stats")):
        value = seen[key]
        strides = (1, *(side // 16 for side in value.shape[1:])) if key != "embedding" else (1, 8, 4, 4)
        recording.check(key, value, strides, bound)


def keep(seen: dict[str, Tensor], stage: int, x: Tensor) -> Tensor:
    seen[f"layer{stage}"] = seen[f"stage{stage}"] = x
    return x


def hook(sam: Sam, seen: dict[str, Tensor]) -> None:
    """Record what lies inside a ViT, and RepViT's stem."""

    def record(name: str, module: nn.Module, channels_last: bool) -> None:
        def store(_: nn.Module, __: object, output: Tensor) -> None:
            seen[name] = output.permute(0, 3, 1, 2) if channels_last else output

        module.register_forward_hook(store)

    if sam.family == "tiny_vit":
        record("level0", sam.encoder.trunk.patch_embed, False)
    elif sam.family == "vit":
        record("patch", sam.encoder.trunk.patch_embed, True)
        for i, layer in enumerate(sam.encoder.trunk.layers):
            record(f"block{i}", layer, True)
    elif sam.family == "repvit":
        record("stem", sam.encoder.trunk.stem, False)

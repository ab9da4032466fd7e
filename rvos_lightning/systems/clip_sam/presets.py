"""The released code's quirks under one name, and our default."""

import math
from dataclasses import dataclass
from typing import Literal

PresetName = Literal["default", "released"]
SparseSource = Literal["cls", "category_pred", "category_gt"]


@dataclass(frozen=True)
class Preset:
    """What differs between the released code (hitachi-rd-cv/dfam, March 2025) and ours.

    Attributes:
        pyramid_width: channels of CLIP's pyramid; None: as everywhere.
        bottleneck: the dense map sees the fine level through a map of the coarse size only.
        reads_padding: the sparse token attends to padded words.
        start_token: the sentence's CLIP vector is that of the start token, the same for every sentence.
        words: most BERT tokens of a sentence.
        pads: every sentence is padded to that many.
        clip_from_square: CLIP's input is SAM's square, shrunk without antialiasing, instead of the picture itself.
        bicubic: how the dense map is enlarged to SAM's grid; else bilinearly.
        gate: SAM's no-mask embedding stays and each channel of the dense map starts with this factor; None: the dense
            map replaces the embedding.
        logit_scale, clamp: of the cosine logits.
        trains_all_masks: the three mask heads that nothing reads stay trainable and are decayed.
    """

    pyramid_width: int | None = None
    bottleneck: bool = False
    reads_padding: bool = False
    start_token: bool = False
    words: int = 40
    pads: bool = False
    clip_from_square: bool = False
    bicubic: bool = False
    gate: float | None = 0.1
    logit_scale: float = math.log(1 / 0.07)
    clamp: float | None = math.log(100)
    trains_all_masks: bool = False


PRESETS: dict[str, Preset] = {
    "default": Preset(),
    "released": Preset(768, True, True, True, 35, True, True, True, None, 1.0, None, True),
}

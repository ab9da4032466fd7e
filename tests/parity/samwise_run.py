"""Runs a recorded video through our network and keeps what the recordings hold."""

from collections import defaultdict
from dataclasses import replace

import torch
from samwise_recordings import clip_of

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Clip


class Watched:
    """A network whose inner values are collected under the recordings' names.

    Public methods are wrapped on the instances; nothing of the computation changes.
    """

    def __init__(self, network: PromptedSegmenter):
        self.network = network
        self.values: dict[str, list] = defaultdict(list)
        memory, segmenter = network.memory, network.segmenter
        self._wrap(segmenter, "run_trunk", self._trunk)
        self._wrap(segmenter, "encode", self._encode)
        self._wrap(segmenter, "remember", lambda result, *args: self._keep("memory.maskmem_features", result))
        self._wrap(memory.bank, "segment_frame", self._frame)
        self._wrap(memory.bank, "read", lambda result, *args: self._keep("pix_feat_with_mem", result))
        self._wrap(memory, "reconsider", self._opinion)
        self._wrap(memory, "look_without_memory", self._memoryless)
        self._wrap(memory.bank, "gate", self._gate)
        network.prompter.register_forward_pre_hook(lambda module, args: self._keep("clip_text_state", args[1].sentence))

    def _wrap(self, owner, name, after):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            after(result, *args)
            return result

        setattr(owner, name, wrapped)

    def _keep(self, name, value):
        self.values[name].append(value.detach().clone())

    def _trunk(self, stages, *args):
        for index, stage in enumerate(stages):
            self._keep(f"trunk_stage{index + 1}_clip", stage)

    def _encode(self, pyramid, *args):
        for index, level in enumerate(pyramid):
            self._keep(f"vision_feats{index}_clip", level.flatten(2).permute(2, 0, 1))

    def _gate(self, masks, decoded):
        self.gated = masks

    def _memoryless(self, result, *args):
        if result is not None:
            self.memoryless = self.gated.unflatten(0, (-1, len(result.frames)))

    def _frame(self, result, *args):
        decoded, _ = result
        segmenter = self.network.segmenter
        self._keep("low_res_masks", self.gated)
        self._keep("ious", decoded.iou)
        scores = decoded.presence_logits
        self._keep("object_score_logits", torch.full_like(decoded.iou, 10.0) if scores is None else scores)
        self._keep("obj_ptr", segmenter.pointer(decoded))

    def _opinion(self, result, full, pointer, candidates, index, state):
        logits, ran, _ = result
        if ran.all():
            self.values["cme.frame"].append(torch.tensor([state.frame]))
            self._keep("cme.logits", logits)
            self.values["cme.decision"].append(logits.argmax(-1))
            self._keep("nomem.early_obj_ptr", candidates.early_tokens[:, index])
            self._keep("nomem.object_score_logits", candidates.presence_logits[:, index])
            self._keep("nomem.low_res_masks", self.memoryless[:, index])

    @torch.no_grad()
    def video(self, frames: torch.Tensor, caption: str, windows: list[list[int]]) -> dict[str, torch.Tensor]:
        """Frames [time, 3, h, w] window by window, with the state carried on; arrays by name."""
        network, state, masks = self.network.eval(), None, []
        whole = clip_of(frames[None], [caption])
        for start, stop in windows:
            clip: Clip = replace(whole, frames=whole.frames[:, start:stop])
            if state is not None:  # a window may start the bank anew: encode what waits before it does
                network.memory.bank.flush(state, network.segmenter)
            prediction = network(clip, state)
            state = prediction.state
            masks.append(prediction.mask_logits[0])
        network.memory.bank.flush(state, network.segmenter)
        arrays = {name: torch.cat(value) for name, value in self.values.items() if not name.endswith("_clip")}
        for name in self.values.keys() - arrays.keys():
            arrays |= {f"{name}{window}": value for window, value in enumerate(self.values[name])}
        arrays["pred_masks"] = torch.cat(masks)
        return arrays

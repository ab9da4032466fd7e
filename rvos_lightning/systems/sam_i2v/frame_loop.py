"""Runs `MemorySteps` over the frames of a window, asking the clip's user; all items that can go together do."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from rvos_lightning.core.types import Clip, Prompt, UserPrompt
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.systems.sam_i2v.head_step import Asked, resize_mask
from rvos_lightning.systems.sam_i2v.memory_bank import TrackState, groups
from rvos_lightning.systems.sam_i2v.outputs import DecoderStep, TrackedPrediction
from rvos_lightning.systems.sam_i2v.steps import Answer, MemorySteps, Situation, blank, form


class FrameLoop:
    """One window of one or several videos.

    Args:
        memory: the modules.
        sam: the segmenter.
        feature: integrated features.
        prompt: the prompter's tokens; no tokens when a user points.
        clip: the window.
        state: the bank, updated in place.
    """

    def __init__(
        self,
        memory: MemorySteps,
        sam: Sam,
        feature: Float[Tensor, "batch time dim h w"],
        prompt: Prompt,
        clip: Clip,
        state: TrackState,
    ):
        self.memory, self.sam, self.feature, self.prompt, self.clip, self.state = (
            memory,
            sam,
            feature,
            prompt,
            clip,
            state,
        )
        self.items = list(range(len(clip)))
        self.video: list[int] = clip.video.tolist()
        self.first_of_video = [self.video.index(v) for v in range(int(clip.frames.shape[0])) if v in self.video]
        self.steps: list[DecoderStep] = []
        side = sam.grid * 4
        self.logits: list[Tensor] = [blank(len(clip), side, feature.device) for _ in range(clip.time)]
        self.presence = [feature.new_full((len(clip), 1), -10.0) for _ in range(clip.time)]
        self.iou = [feature.new_zeros(len(clip), 1) for _ in range(clip.time)]
        if state.waiting is None:
            state.waiting = self.ask_first()

    def ask_first(self) -> dict[tuple[int, int], list[UserPrompt]]:
        """First prompts of every item by the position they are meant for."""
        waiting: dict[tuple[int, int], list[UserPrompt]] = {}
        for item in self.items:
            if self.clip.user is None:  # language: every item starts on the first frame
                waiting[item, self.position(item, 0)] = []
                continue
            for given in self.clip.user.first_prompt(item):
                waiting.setdefault((item, given.frame), []).append(given)
        return waiting

    def position(self, item: int, time: int) -> int:
        """Position of a window's frame in the item's video."""
        positions = self.clip.meta[item].positions
        return positions[time] if positions else self.state.index + time

    def track(self) -> TrackedPrediction:
        """Inference: frames in order, prompts when they are reached."""
        state = self.state
        self.streams()
        for time in range(self.clip.time):
            self.embed(time)
            starting = [i for i in self.items if (i, self.position(i, time)) in (state.waiting or {})]
            going = [i for i in self.items if i not in starting and self.known(i)]
            for answer in [*self.start(time, starting), *self.go_on(time, going)]:
                self.finish(time, answer)
            state.index += 1
            state.evict(self.memory.selector.reach)
        return self.prediction()

    def streams(self) -> None:
        """Give every item its own random stream, if the selector draws."""
        for item in self.items:
            if self.memory.selector.draw == "random" and item not in self.state.streams:
                meta = self.clip.meta[item]
                self.state.streams[item] = self.memory.selector.stream(meta.video, meta.item)

    def train(self) -> TrackedPrediction:
        """Training: conditioning frames first, then the rest in order."""
        state = self.state
        waiting = state.waiting or {}
        rest = []
        for time in range(self.clip.time):
            starting = [i for i in self.items if (i, self.position(i, time)) in waiting]
            rest.append([i for i in self.items if i not in starting])
            for answer in self.start(time, starting):
                self.finish(time, answer)
        for time, going in enumerate(rest):
            for answer in self.go_on(time, [i for i in going if self.known(i)]):
                self.finish(time, answer)
        return self.prediction()

    def known(self, item: int) -> bool:
        """The item has been prompted somewhere."""
        return any(memory.prompted[item] for memory in self.state.frames.values())

    def index(self, time: int) -> int:
        """Frame index in the video: training clips start at 0, windows go on."""
        return time if self.memory.training else self.state.index

    def embed(self, time: int) -> None:
        """Keep one unit-length vector per video for the selector."""
        flat = self.feature[self.first_of_video, time].permute(0, 2, 3, 1).flatten(1)
        self.state.embeds[self.state.index] = functional.normalize(flat.float(), dim=1, eps=1e-12)

    def rows(self, items: Sequence[int], time: int) -> Tensor:
        """Features of some items."""
        return self.feature[:, time] if len(items) == len(self.items) else self.feature[list(items), time]

    def language(self, items: Sequence[int], time: int) -> Tensor | None:
        """The prompter's tokens of some items; None where it has none."""
        return self.prompt.tokens[list(items), time] if self.prompt.tokens.shape[2] else None

    def start(self, time: int, items: Sequence[int]) -> list[Answer]:
        """Answers on a prompted frame: no memory is read."""
        answers = []
        prompts = [merge((self.state.waiting or {}).pop((i, self.position(i, time)))) for i in items]
        keys = [(p.mask is not None, 0 if p.points is None else len(p.points)) for p in prompts]
        for (by_mask, count), members in groups(keys).items():
            part = [items[m] for m in members]
            situation = self.memory.situation(self.state, self.index(time), part, self.rows(part, time), None)
            if by_mask:
                side = self.sam.grid * self.memory.mask_stride
                mask = torch.stack([resize_mask(prompts[m].mask.to(self.feature.device), side) for m in members])
                answer = Answer(situation, self.memory.answer_mask(self.sam, situation, mask))
            else:
                asked = self.asked([prompts[m] for m in members], part, time) if count else Asked()
                asked = replace(asked, language=self.language(part, time))
                answer = Answer(situation, self.memory.answer(self.sam, situation, asked), asked)
            answer.touched = self.clip.user is not None
            answer.prompted = True
            self.note(time, answer)
            answers.append(answer)
        return [corrected for answer in answers for corrected in self.correct(time, answer)]

    def go_on(self, time: int, items: Sequence[int], reverse: bool = False) -> list[Answer]:
        """Answers on a tracked frame, memory read."""
        answers: list[Answer] = []
        if not items:
            return answers
        index = self.index(time)
        readings = self.memory.readings(self.state, index, items, self.video, self.clip.time, reverse)
        for members in groups([form(reading) for reading in readings]).values():
            part = [items[m] for m in members]
            chosen = [readings[m] for m in members]
            situation = self.memory.situation(self.state, index, part, self.rows(part, time), chosen)
            asked = Asked(language=self.language(part, time))
            answer = Answer(situation, self.memory.answer(self.sam, situation, asked), asked)
            self.note(time, answer)
            answers.append(answer)
        return [corrected for answer in answers for corrected in self.correct(time, answer)]

    def correct(self, time: int, answer: Answer) -> list[Answer]:
        """Ask the user about the answer until content; items that part ways go on separately."""
        pending, done = [(answer, 0)], []
        while pending:
            answer, rounds = pending.pop()
            items = answer.situation.items
            replies = [None] * len(items)
            if self.clip.user is not None and rounds < self.memory.max_corrections:
                masks = answer.output.chosen[:, 0].detach()
                replies = [
                    self.clip.user.correct(item, self.position(item, time), masks[row])
                    for row, item in enumerate(items)
                ]
            for (count, _), members in groups(
                [(0, 0) if r is None else (len(r.points), r.alone) for r in replies]
            ).items():
                part = answer if len(members) == len(items) else subset(answer, members)
                if count == 0:
                    done.append(part)
                else:
                    pending.append((self.again(time, part, [replies[m] for m in members]), rounds + 1))
        return done

    def again(self, time: int, answer: Answer, replies: Sequence[UserPrompt]) -> Answer:
        """One correction round: all clicks so far (unless the new ones stand alone) and the last logits as mask prompt,
        on the same conditioned feature."""
        situation = answer.situation
        new = self.asked(replies, situation.items, time)
        points, labels = new.points, new.labels
        if answer.asked.points is not None and not replies[0].alone:
            points = torch.cat([answer.asked.points, points], 1)
            labels = torch.cat([answer.asked.labels, labels], 1)
        previous = self.memory.filled(answer.output.chosen)
        previous = previous if self.memory.training else previous.clamp(-32, 32)
        asked = Asked(points, labels, previous, answer.asked.language)
        if self.memory.training and situation.tokens is not None:
            prompts = self.memory.memory_prompts(situation.tokens, situation.feature.shape[-2:])
            situation = replace(situation, memory_prompts=prompts)
        prompted = answer.prompted or (self.memory.training and self.memory.corrections_condition)
        result = Answer(situation, self.memory.answer(self.sam, situation, asked), asked, True, prompted)
        self.note(time, result)
        return result

    def asked(self, prompts: Sequence[UserPrompt], items: Sequence[int], time: int) -> Asked:
        """Clicks of some items in pixels of the square input."""
        device = self.feature.device
        padded = torch.tensor(self.clip.frames.shape[-2:][::-1])
        sizes = torch.tensor([self.clip.meta[i].size[::-1] for i in items])
        scale = (sizes / padded * self.sam.image_size)[:, None]
        points = torch.stack([p.points.cpu() for p in prompts]).float() * scale
        return Asked(points.to(device), torch.stack([p.labels.cpu() for p in prompts]).int().to(device))

    def note(self, time: int, answer: Answer) -> None:
        """Keep a decoder step for the losses."""
        if self.memory.training:
            output = answer.output
            items = torch.tensor(answer.situation.items, device=output.iou.device)
            self.steps.append(DecoderStep(time, items, output.candidates, output.iou, output.presence_logits))

    def finish(self, time: int, answer: Answer) -> None:
        """Store the frame's answer and its memory."""
        items, output = answer.situation.items, answer.output
        filled = replace(output, chosen=self.memory.filled(output.chosen))
        # What a user touched is remembered as shown; what was tracked, before holes are filled.
        remembered = self.memory.remember(replace(answer, output=filled) if answer.touched else answer)
        self.state.put(self.index(time), items, remembered, len(self.items))
        rows = torch.tensor(items, device=output.iou.device)
        best = output.iou.max(1, keepdim=True).values
        self.logits[time] = self.logits[time].index_copy(0, rows, filled.chosen.float())
        self.presence[time] = self.presence[time].index_copy(
            0, rows, output.presence_logits.to(self.presence[time].dtype)
        )
        self.iou[time] = self.iou[time].index_copy(0, rows, best.to(self.iou[time].dtype))

    def prediction(self) -> TrackedPrediction:
        """All frames of the window."""
        frames = (torch.cat(each, 1) for each in (self.logits, self.presence, self.iou))
        return TrackedPrediction(*frames, state=self.state, steps=self.steps)


def merge(prompts: Sequence[UserPrompt]) -> UserPrompt:
    """All prompts of one item on one frame as one; a mask wins over clicks."""
    if not prompts:
        return UserPrompt(0)
    by_mask = [p for p in prompts if p.mask is not None]
    if by_mask:
        return by_mask[-1]
    points = torch.cat([p.points for p in prompts if p.points is not None])
    return UserPrompt(prompts[0].frame, points, torch.cat([p.labels for p in prompts if p.labels is not None]))


def subset(answer: Answer, members: Sequence[int]) -> Answer:
    """Some rows of an answer."""
    rows = list(members)

    def cut(value: object) -> object:
        if isinstance(value, Tensor):
            return value[rows]
        return value

    situation = answer.situation
    tokens = situation.tokens
    if tokens is not None:
        tokens = replace(tokens, values=tokens.values[rows], position=tokens.position[rows], keep=tokens.keep[rows])
    part = Situation(
        [situation.items[m] for m in rows],
        situation.feature[rows],
        situation.conditioned[rows],
        tokens,
        situation.memory_prompts[rows],
    )
    output = type(answer.output)(*(cut(getattr(answer.output, name)) for name in answer.output.__dataclass_fields__))
    asked = type(answer.asked)(*(cut(getattr(answer.asked, name)) for name in answer.asked.__dataclass_fields__))
    return Answer(part, output, asked, answer.touched, answer.prompted)

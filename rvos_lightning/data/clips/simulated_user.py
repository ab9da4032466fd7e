"""A user who knows the targets and points as the published protocols prescribe (SAM-I2V)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from rvos_lightning.core.bounds import FromZero, Share
from rvos_lightning.core.types import ClipMeta, Targets, User, UserPrompt
from rvos_lightning.data.clips.users import UserFactory

Protocol = Literal["click", "three_click", "box", "mask", "online", "offline"]


class SimulatedUser(UserFactory):
    """Random prompts and corrections in training, a fixed protocol in evaluation.

    Args:
        points: probability that a training clip is prompted by points (clicks or boxes) rather than masks.
        box: probability that a point prompt is a box.
        initial: at most so many prompted frames a training clip; the first always, others at random.
        corrected: at most so many corrected frames a training clip (point prompts only).
        corrections: clicks on a corrected frame.
        from_truth: probability that a correction is drawn from the target instead of the error.
        protocol: evaluation: one click, three clicks, a box or a mask on the item's first frame; `online` clicks again
            wherever a mask falls below `threshold`; `offline` clicks on the worst frame after every pass over the
            whole video, which must fit into one window.
        clicks: evaluation clicks on an interacted frame (`three_click`, `online`, `offline`).
        threshold: IoU below which the online user clicks.
        rounds: at most so many interacted frames of an item online and offline.
        oracle: `three_click` as the released test script has it: of the first frame's clicks only the shortest prefix
            with the best true IoU is kept. It looks at the truth to choose; scores with it say so.
    """

    def __init__(
        self,
        points: Share = 0.5,
        box: Share = 0.5,
        initial: FromZero = 2,
        corrected: FromZero = 2,
        corrections: FromZero = 7,
        from_truth: Share = 0.1,
        protocol: Protocol = "three_click",
        clicks: int = 3,
        threshold: Share = 0.75,
        rounds: int = 8,
        oracle: bool = False,
    ) -> None:
        if corrected < initial:
            raise ValueError(f"simulate_user.corrected ({corrected}) must be at least initial ({initial})")
        if oracle and protocol != "three_click":
            raise ValueError(f"simulate_user.oracle belongs to protocol three_click, not {protocol}")
        self.oracle = oracle
        self.points, self.box, self.initial, self.corrected = points, box, initial, corrected
        self.corrections, self.from_truth = corrections, from_truth
        self.protocol: Protocol = protocol
        self.clicks, self.threshold, self.rounds = clicks, threshold, rounds

    def __call__(self, targets: Targets, meta: list[ClipMeta], seed: int, batch_seed: int | None = None) -> User:
        """The user of a training batch, whose plan all ranks share."""
        random = np.random.default_rng(seed if batch_seed is None else batch_seed)
        return TrainingUser(self, targets, meta, self.plan(targets.masks.shape[1], random), seed)

    def evaluation(self, targets: Targets, meta: list[ClipMeta], seed: int) -> User:
        """The user of evaluation videos; nothing of theirs is random."""
        return EvaluationUser(self, targets, meta)

    def plan(self, time: int, random: np.random.Generator) -> "TrainingPlan":
        """What is prompted and corrected, the same for all items of a batch (as published) and on all ranks (ours)."""
        by_points = time == 1 or random.random() < self.points
        count = int(random.integers(1, min(self.initial, time) + 1))
        initial = [0, *sorted((1 + random.permutation(time - 1)[: count - 1]).tolist())]
        corrected = list(initial)
        if by_points:
            wanted = int(random.integers(count, max(min(self.corrected, time), count) + 1))
            others = [t for t in range(time) if t not in initial]
            corrected += random.permutation(others)[: wanted - count].tolist() if others else []
        boxes = frozenset(t for t in initial if random.random() < self.box)
        return TrainingPlan(by_points, initial, sorted(int(t) for t in corrected) if by_points else [], boxes)


@dataclass(frozen=True)
class TrainingPlan:
    """Decisions of one training clip.

    Attributes:
        by_points: prompted by points rather than masks.
        initial: prompted frames.
        corrected: frames on which errors are clicked.
        boxes: prompted frames that start with a box instead of a click.
    """

    by_points: bool
    initial: list[int]
    corrected: list[int]
    boxes: frozenset[int] = frozenset()


class _TargetHolder(User):
    """Finds an item's target by position in the video."""

    def __init__(self, options: SimulatedUser, targets: Targets, meta: list[ClipMeta]) -> None:
        self.options, self.targets = options, targets
        self.time = targets.masks.shape[1]
        self.positions = [m.positions or tuple(range(self.time)) for m in meta]
        self.sizes = [m.size for m in meta]
        self.asked: Counter[tuple[int, int]] = Counter()

    def target(self, item: int, time: int) -> Bool[Tensor, "h w"]:
        """The target at its own resolution."""
        return self.targets.masks[:, time : time + 1][item, 0].cpu()

    def annotated(self, item: int, time: int) -> bool:
        """The frame has ground truth."""
        return bool(self.targets.annotated[:, time : time + 1][item, 0])


class TrainingUser(_TargetHolder):
    """Random clicks, boxes and masks; every item draws from its own stream."""

    def __init__(
        self, options: SimulatedUser, targets: Targets, meta: list[ClipMeta], plan: TrainingPlan, seed: int
    ) -> None:
        super().__init__(options, targets, meta)
        self.plan = plan
        self.random = [np.random.default_rng((seed, item)) for item in range(len(meta))]

    def first_prompt(self, item: int) -> Sequence[UserPrompt]:
        """A box, a click or a mask on every initial frame."""
        prompts = []
        for time in self.plan.initial:
            mask, position = self.target(item, time), self.positions[item][time]
            if not self.plan.by_points:
                prompts.append(UserPrompt(position, mask=mask))
            elif time in self.plan.boxes:
                prompts.append(relative(position, noisy_box(mask, self.random[item]), (2, 3), self.sizes[item]))
            else:
                point, label = random_error(mask, torch.zeros_like(mask), self.random[item])
                prompts.append(relative(position, [point], (label,), self.sizes[item]))
        return prompts

    def correct(self, item: int, frame: int, mask: Float[Tensor, "h w"]) -> UserPrompt | None:
        """A click in the error, on corrected frames, a fixed number of times."""
        time = self.positions[item].index(frame)
        if time not in self.plan.corrected or self.asked[item, frame] >= self.options.corrections:
            return None
        self.asked[item, frame] += 1
        target = self.target(item, time)
        predicted = enlarge(mask, target.shape)
        if self.random[item].random() < self.options.from_truth:
            predicted = torch.zeros_like(target)
        point, label = random_error(target, predicted, self.random[item])
        return relative(frame, [point], (label,), self.sizes[item])


class EvaluationUser(_TargetHolder):
    """The protocols of the released test script, and online interaction."""

    def __init__(self, options: SimulatedUser, targets: Targets, meta: list[ClipMeta]) -> None:
        super().__init__(options, targets, meta)
        self.first = [self._first_frame(item) for item in range(len(meta))]
        self.interacted: list[set[int]] = [set() for _ in meta]
        self.revisits = options.protocol == "offline"
        # What was given (an oracle chooses from the first frame's clicks), and the IoU after each.
        self.given: list[list[UserPrompt]] = [[] for _ in meta]
        self.reached: list[list[float]] = [[] for _ in meta]

    def _first_frame(self, item: int) -> int | None:
        """The first annotated frame on which the item is visible."""
        for time in range(self.time):
            if self.annotated(item, time) and bool(self.target(item, time).any()):
                return time
        return None

    def first_prompt(self, item: int) -> Sequence[UserPrompt]:
        """One prompt on the item's first frame; none if it is never visible."""
        time = self.first[item]
        if time is None:
            return []
        mask, position = self.target(item, time), self.positions[item][time]
        self.interacted[item].add(time)
        self.asked[item, position] = 1
        if self.options.protocol == "mask":
            prompt = UserPrompt(position, mask=mask)
        elif self.options.protocol == "box":
            left, top, right, bottom = tight_box(mask)
            prompt = relative(position, [(left, top), (right, bottom)], (2, 3), mask.shape)
        else:
            prompt = relative(position, [first_click(mask)], (1,), mask.shape)
        self.given[item].append(prompt)
        return [prompt]

    def said(self, item: int) -> Sequence[UserPrompt]:
        """The first prompt and the clicks that followed it."""
        return self.given[item]

    def correct(self, item: int, frame: int, mask: Float[Tensor, "h w"]) -> UserPrompt | None:
        """Further clicks on the first frame; online also where the mask became bad."""
        time = self.positions[item].index(frame)
        clicks = self.options.clicks if self.options.protocol in ("three_click", "online", "offline") else 1
        if self.asked[item, frame] > clicks or not self.annotated(item, time):
            return None
        if self.asked[item, frame] == clicks and not (self.options.oracle and time == self.first[item]):
            return None
        target = self.target(item, time)
        predicted = enlarge(mask, target.shape)
        self.reached[item].append(overlap(target, predicted))
        if self.asked[item, frame] == clicks:
            self.asked[item, frame] += 1
            return self.best_prefix(item)
        if time not in self.interacted[item]:
            done = len(self.interacted[item]) >= self.options.rounds
            if self.options.protocol != "online" or done or overlap(target, predicted) >= self.options.threshold:
                return None
            self.interacted[item].add(time)
        self.asked[item, frame] += 1
        point, label = centre_of_error(target, predicted)
        click = relative(frame, [point], (label,), target.shape)
        self.given[item].append(click)
        return click

    def best_prefix(self, item: int) -> UserPrompt:
        """The oracle: of the first frame's clicks the shortest prefix after which the IoU was best."""
        count = int(np.argmax(self.reached[item])) + 1
        chosen = self.given[item][:count]
        points, labels = (torch.cat([getattr(c, name) for c in chosen]) for name in ("points", "labels"))
        return UserPrompt(chosen[0].frame, points, labels, alone=True)

    def revisit(self, masks: Float[Tensor, "batch time h w"]) -> dict[int, int]:
        """Each item's frame of lowest IoU that was not clicked on yet; none for items that are perfect or used up.

        Raises:
            ValueError: the masks are not the whole video's.
        """
        if masks.shape[1] != self.time:
            raise ValueError(
                f"protocol offline needs the whole video of {self.time} frames in one window, not {masks.shape[1]}: "
                f"give --model.window {self.time} or more"
            )
        wanted = {}
        for item, done in enumerate(self.interacted):
            if self.first[item] is None or len(done) >= self.options.rounds:
                continue
            left = [t for t in range(self.first[item], self.time) if t not in done and self.annotated(item, t)]
            targets = {t: self.target(item, t) for t in left}
            scores = {t: overlap(target, enlarge(masks[item, t], target.shape)) for t, target in targets.items()}
            worst = min(scores, key=scores.__getitem__, default=None)
            if worst is not None and scores[worst] < 1:
                self.interacted[item].add(worst)
                wanted[item] = self.positions[item][worst]
        return wanted


def relative(
    position: int, points: Sequence[tuple[float, float]], labels: Sequence[int], size: Sequence[int]
) -> UserPrompt:
    """Points in pixels of a picture of (height, width) `size`, as fractions of it."""
    scaled = torch.tensor([[x / size[1], y / size[0]] for x, y in points])
    return UserPrompt(position, scaled, torch.tensor(labels))


def enlarge(mask_logits: Float[Tensor, "h w"], size: tuple[int, ...]) -> Bool[Tensor, "height width"]:
    """A predicted mask at the target's resolution."""
    logits = mask_logits.float().cpu()[None, None]
    if tuple(logits.shape[-2:]) != tuple(size):
        logits = functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)
    return logits[0, 0] > 0


def overlap(target: Bool[Tensor, "h w"], predicted: Bool[Tensor, "h w"]) -> float:
    """Intersection over union; 1 if both are empty."""
    union = int((target | predicted).sum())
    return int((target & predicted).sum()) / union if union else 1.0


def random_error(
    target: Bool[Tensor, "h w"], predicted: Bool[Tensor, "h w"], random: np.random.Generator
) -> tuple[tuple[int, int], int]:
    """A pixel (x, y) uniform in the error: positive where missed, negative where too much; background if none."""
    wrong = target ^ predicted
    if not bool(wrong.any()):
        wrong = ~target if not bool(target.all()) else target
    flat = wrong.flatten().nonzero()[:, 0]
    index = int(flat[int(random.integers(len(flat)))])
    y, x = divmod(index, target.shape[1])
    return (x, y), int(target[y, x])


def centre_of_error(target: Bool[Tensor, "h w"], predicted: Bool[Tensor, "h w"]) -> tuple[tuple[int, int], int]:
    """The pixel deepest inside the larger error, by Euclidean distance with a border of zeros; its label."""
    import cv2

    def depth(region: Tensor) -> np.ndarray:
        padded = np.pad(region.numpy().astype(np.uint8), 1)
        return cv2.distanceTransform(padded, cv2.DIST_L2, 0)[1:-1, 1:-1]

    missed, surplus = depth(target & ~predicted), depth(predicted & ~target)
    positive = bool(missed.max() > surplus.max())
    y, x = divmod(int((missed if positive else surplus).argmax()), target.shape[1])
    return (x, y), int(positive)


def first_click(mask: Bool[Tensor, "h w"]) -> tuple[int, int]:
    """The mask's pixel nearest to its centroid (x, y)."""
    pixels = mask.nonzero().double()
    nearest = int((pixels - pixels.mean(0)).square().sum(1).argmin())
    return int(pixels[nearest, 1]), int(pixels[nearest, 0])


def tight_box(mask: Bool[Tensor, "h w"]) -> tuple[int, int, int, int]:
    """x, y of the first and one past the last pixel of the mask."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def inclusive_box(mask: Bool[Tensor, "h w"]) -> Int[Tensor, "4"]:
    """x, y of the first and of the last pixel of the mask; zeros if it is empty."""
    if not bool(mask.any()):
        return torch.zeros(4, dtype=torch.int64)
    left, top, right, bottom = tight_box(mask)
    return torch.tensor([left, top, right - 1, bottom - 1])


def noisy_box(
    mask: Bool[Tensor, "h w"], random: np.random.Generator, share: float = 0.1, limit: float = 20.0
) -> list[tuple[float, float]]:
    """Both corners of the inclusive box, each moved by at most 10 % of the side and 20 pixels, inside the frame."""
    left, top, right, bottom = (float(v) for v in inclusive_box(mask))
    reach = [min((right - left) * share, limit), min((bottom - top) * share, limit)] * 2
    shaken = np.array([left, top, right, bottom]) + random.uniform(-1, 1, 4) * reach
    height, width = mask.shape
    shaken = shaken.clip(0, [width - 1, height - 1] * 2)
    return [(float(shaken[0]), float(shaken[1])), (float(shaken[2]), float(shaken[3]))]

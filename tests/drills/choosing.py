"""The smallest network that chooses with the targets, then refines: two layers of three queries over a clip."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from callbacks.masks import dice_loss
from rvos_lightning.core.objectives import Chooser
from rvos_lightning.core.seams import Choose, ChoosingNetwork
from rvos_lightning.core.types import Batch, Candidates, ChosenPrediction, Clip, State
from rvos_lightning.systems.tiny.film_adapter import WordEncoder


class Choosing(ChoosingNetwork):
    """Queries from the sentence, coarse masks as dot products, and a refinement of the chosen query only.

    Args:
        width: of everything.
        queries: candidates a layer.
    """

    def __init__(self, width: int = 16, queries: int = 3):
        super().__init__()
        self.words = WordEncoder(width)
        self.stem = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.GELU(), nn.Conv2d(width, width, 3, padding=1))
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.layers = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.score = nn.Linear(width, 1)
        self.refine = nn.Sequential(nn.Conv2d(1 + width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 1, 1))

    def forward(self, clip: Clip, state: State | None = None, choose: Choose | None = None) -> ChosenPrediction:
        """See `ChoosingNetwork`."""
        maps = self.stem(clip.frames[clip.video].flatten(0, 1)).unflatten(0, (len(clip), clip.time))
        sentence = self.words(clip.expressions)[2]
        query, states = self.queries.expand(len(clip), -1, -1), []
        for layer in self.layers:
            query = query + layer(torch.cat([query, sentence[:, None].expand_as(query)], 2)).tanh()
            states.append(query)
        stacked = torch.stack(states)
        coarse = torch.einsum("lbqc,btchw->lbtqhw", stacked, maps)
        logits = self.score(stacked)[:, :, None, :, 0].expand(-1, -1, clip.time, -1)
        candidates = Candidates(logits, mask_logits=coarse)
        chosen = logits.mean(2).argmax(2) if choose is None else choose(candidates)
        refined = self.refined(picked(coarse, chosen), maps)
        return ChosenPrediction(refined[-1], candidates=candidates, chosen=chosen, refined=refined)

    def refined(self, coarse: Tensor, maps: Tensor) -> Float[Tensor, "layers batch time h w"]:
        """Coarse masks of one query a layer and item, and the maps below them, to finer masks."""
        seen = torch.cat([coarse[:, :, :, None], maps.expand(len(coarse), -1, -1, -1, -1, -1)], 3)
        return (self.refine(seen.flatten(0, 2)).unflatten(0, coarse.shape[:3]) + coarse[:, :, :, None])[:, :, :, 0]


def picked(values: Tensor, chosen: Int[Tensor, "layers batch"]) -> Tensor:
    """`values[layer, item, :, chosen[layer, item]]`: the chosen query's."""
    layers, items = chosen.shape
    rows, columns = torch.arange(layers)[:, None], torch.arange(items)
    return values[rows, columns, :, chosen]


class Matching(Chooser):
    """Chooses the candidate whose coarse mask overlaps the target most; trains scores, refined and coarse masks."""

    def choose(self, batch: Batch, candidates: Candidates) -> Int[Tensor, "layers batch"]:
        """The least DICE loss over the clip."""
        assert not torch.is_grad_enabled() and candidates.mask_logits.requires_grad
        masks = candidates.mask_logits.transpose(2, 3)  # time lies behind the queries
        truth = scaled(batch, masks.shape[-2:])[None, :, None].expand_as(masks)
        cost = dice_loss(masks.flatten(3).flatten(0, 2), truth.flatten(3).flatten(0, 2))
        return cost.view(masks.shape[:3]).argmin(2)

    def terms(self, batch: Batch, prediction: ChosenPrediction) -> dict[str, Tensor]:
        """DICE of refined masks and a cross-entropy over queries, at every layer."""
        refined, logits = prediction.refined, prediction.candidates.logits.mean(2)
        truth = scaled(batch, refined.shape[-2:]).expand_as(refined)
        dice = dice_loss(refined.flatten(2).flatten(0, 1), truth.flatten(2).flatten(0, 1)).mean()
        return {"dice": dice, "score": functional.cross_entropy(logits.flatten(0, 1), prediction.chosen.flatten())}


def scaled(batch: Batch, size: tuple[int, int]) -> Float[Tensor, "batch time h w"]:
    """Target masks at the size of the candidates'."""
    return functional.interpolate(batch.targets.masks.float(), size, mode="area")

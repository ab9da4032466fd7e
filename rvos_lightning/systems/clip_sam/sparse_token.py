"""The sentence's one sparse prompt token for SAM's mask decoder."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rvos_lightning.systems.clip_sam.attention import CrossBlock, FeedForward


class SparseToken(nn.Module):
    """A query (a category or the sentence's own vector) reads the words.

    Args:
        width: channels.
        heads: of the attention.
        hidden: width of the feed-forward layer.
    """

    def __init__(self, width: int = 256, heads: int = 8, hidden: int = 1024) -> None:
        super().__init__()
        self.read, self.forward_layer = CrossBlock(width, heads), FeedForward(width, hidden)

    def forward(
        self,
        query: Float[Tensor, "pairs c"],
        words: Float[Tensor, "pairs words c"],
        real: Bool[Tensor, "pairs words"] | None,
    ) -> Float[Tensor, "pairs 1 c"]:
        """The token; `real` None reads padding, too, as the released code does."""
        allowed = None if real is None else real[:, None]
        return self.forward_layer(self.read(query[:, None], words, words, allowed=allowed))

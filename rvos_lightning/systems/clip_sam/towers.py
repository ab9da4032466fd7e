"""The two halves of CLIP: dense patches of an image, one vector of a text."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.parts.layers.convolutions import ConvStem, Residual, halving
from rvos_lightning.parts.starting import read_weights
from rvos_lightning.parts.text.encoder import TextEncoder
from rvos_lightning.parts.weights import WeightsError, freeze, load_official, mark_reproducible, refuse_misfit

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class VisionLanguage(nn.Module, ABC):
    """Names things, coarsely.

    Attributes:
        width: channels of a patch.
        text_width: channels of a text.
        image_size: side of the square that `look` takes.
        grid: patches along a side.
        frozen: never trained, so that what it says of a text or an image can be kept.
    """

    width: int
    text_width: int
    image_size: int
    grid: int
    frozen: bool

    @abstractmethod
    def look(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images patches width"]:
        """Patches of RGB squares in [0, 1], row by row."""

    @abstractmethod
    def read(self, texts: list[str], start_token: bool = False) -> Float[Tensor, "texts text"]:
        """One vector of length 1 a text; `start_token`: the released defect, a constant."""

    def forget_images(self) -> None:
        """Drop the image half, whose patches come from a feature cache."""


class ClipTower(VisionLanguage):
    """CLIP through open_clip, frozen.

    Patches are the residual stream after the last block, before its final norm and projection, without the class token.

    Args:
        model: open_clip's name of the architecture.
        weights: open_clip state dict of that model (.safetensors or .pt); None: random.
        size: keyword arguments of `open_clip.CLIP` instead of `model`, for tests.
        plain_gelu: the weights were trained with GELU (LAION's); OpenAI's need QuickGELU.
        final_norm: patches after CLIP's final norm.

    Raises:
        ValueError: plain GELU without `plain_gelu`, which would shift every feature of OpenAI's weights.
        WeightsError: the weights do not fit.
    """

    licence = "CLIP, code and weights: MIT"
    frozen = True

    def __init__(
        self,
        model: str = "ViT-L-14-336-quickgelu",
        weights: Path | str | None = None,
        size: dict[str, Any] | None = None,
        plain_gelu: bool = False,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        import open_clip

        config = size or open_clip.get_model_config(model)
        if config is None:
            raise ValueError(f"open_clip has no model {model!r}; see open_clip.list_models()")
        self.model = open_clip.CLIP(**config)
        self.name, self.final_norm = ("small CLIP" if size else model), final_norm
        self._refuse_gelu(plain_gelu)
        self.tokenizer = open_clip.get_tokenizer(model) if size is None else open_clip.SimpleTokenizer()
        visual = self.model.visual
        self.width, self.text_width = visual.ln_post.normalized_shape[0], self.model.text_projection.shape[1]
        self.image_size, self.grid = visual.image_size[0], visual.grid_size[0]
        if weights is not None:
            state = load_official(weights)
            try:
                self.model.load_state_dict(state)
            except RuntimeError as error:
                first = str(error).splitlines()[1].strip()
                raise WeightsError(f"{weights}: does not fit {self.name}: {first}") from error
            mark_reproducible(self, str(weights))
        self.weights = weights
        freeze(self)

    def _refuse_gelu(self, plain_gelu: bool) -> None:
        from open_clip.transformer import QuickGELU

        blocks = [*self.model.visual.transformer.resblocks, *self.model.transformer.resblocks]
        quick = {isinstance(block.mlp.gelu, QuickGELU) for block in blocks}
        if quick != {not plain_gelu}:
            has = "plain GELU" if quick == {False} else "QuickGELU"
            raise ValueError(
                f"tower: {self.name} computes with {has}; OpenAI's weights need QuickGELU and would load "
                "silently and shift every feature. Give a model whose name ends with -quickgelu, or plain_gelu: true "
                "for weights trained with GELU"
            )

    @torch.no_grad()
    def look(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images patches width"]:
        """See `VisionLanguage.look`.

        Raises:
            ValueError: the image half was dropped.
        """
        if self.model.visual is None:
            raise ValueError("the network reads features from a cache and has no image encoders; set features: null")
        mean, std = (images.new_tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
        said = self.model.visual.forward_intermediates(
            (images - mean) / std,
            indices=1,
            normalize_intermediates=self.final_norm,
            intermediates_only=True,
            output_fmt="NLC",
        )
        return said["image_intermediates"][-1]

    @torch.no_grad()
    def read(self, texts: list[str], start_token: bool = False) -> Float[Tensor, "texts text"]:
        """See `VisionLanguage.read`; longer texts are cut, their end token stays."""
        ids = self.tokenize(texts)
        if not start_token:
            return self.model.encode_text(ids, normalize=True)
        x = self.model.token_embedding(ids) + self.model.positional_embedding
        x = self.model.ln_final(self.model.transformer(x, attn_mask=self.model.attn_mask))[:, 0]
        return functional.normalize(x @ self.model.text_projection, dim=-1)

    @torch.compiler.disable
    def tokenize(self, texts: list[str]) -> Int[Tensor, "texts words"]:
        """CLIP's token ids; not compiled, as a graph would hold for these texts only."""
        return self.tokenizer(texts, self.model.context_length).to(self.model.positional_embedding.device)

    def forget_images(self) -> None:
        """See `VisionLanguage.forget_images`."""
        self.model.visual = None


class SmallTower(VisionLanguage):
    """Convolutions and a small text encoder: trained with everything else, or beforehand and frozen, as CLIP is.

    Like CLIP's, its patches know where they are.

    Args:
        text: reads sentences; its width is the tower's.
        width: channels of the patches, a multiple of 8.
        image_size: side of the square it sees.
        stride: pixels a patch, a power of 2.
        weights: state dict of this class, such as `small/clip`; None: random.
        frozen: train nothing of it.

    Raises:
        ValueError: the square cannot be divided into patches.
        WeightsError: the weights do not fit.
    """

    def __init__(
        self,
        text: TextEncoder,
        width: int = 64,
        image_size: int = 64,
        stride: int = 8,
        weights: Path | str | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if image_size % (2 * stride):
            raise ValueError(f"tower: image_size {image_size} is not a multiple of twice the stride {stride}")
        self.text, self.width, self.text_width = text, width, text.width
        self.image_size, self.grid = image_size, image_size // stride
        half = ConvStem(width // 2, stride // 2)
        self.stem, self.end = half, nn.Sequential(*halving(width // 2, width), Residual(width))
        self.place = nn.Parameter(torch.empty(self.grid**2, width).normal_(std=0.02))
        self.frozen = frozen
        if weights is not None:
            read_weights(self, weights, self.load_weights)
        if frozen:
            freeze(self)

    def load_weights(self, weights: Path | str) -> None:
        """Read a state dict of this class."""
        state = load_official(weights)
        refuse_misfit(state, self.state_dict(), what=str(weights), remedy="give the sizes it was trained with")
        self.load_state_dict(state)
        mark_reproducible(self, str(weights))

    def look(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images patches width"]:
        """See `VisionLanguage.look`."""
        patches = self.end(self.stem(images - 0.5).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return patches + self.place

    def read(self, texts: list[str], start_token: bool = False) -> Float[Tensor, "texts text"]:
        """See `VisionLanguage.read`."""
        words, _, sentences = self.text(texts)
        return functional.normalize(words[:, 0] if start_token else sentences, dim=-1)

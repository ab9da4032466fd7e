"""Sizes of the language models: the four released ones, any other, and their transformers configurations."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rvos_lightning.parts.starting import started
from rvos_lightning.parts.weights import WeightsError
from rvos_lightning.systems.sa2va.conversation import TemplateName

if TYPE_CHECKING:
    from transformers import InternVLConfig

Family = Literal["qwen2", "internlm2", "phi3"]
Released = Literal["1b", "4b", "8b", "26b"]


@dataclass(frozen=True)
class VisionSize:
    """InternViT; `big` is the 6B flavour: RMSNorm, no qkv bias, normalised queries and keys."""

    layers: int = 24
    width: int = 1024
    heads: int = 16
    mlp: int = 4096
    image: int = 448
    patch: int = 14
    big: bool = False
    eps: float = 1e-6

    @property
    def tokens(self) -> int:
        """Visual tokens of one picture: the patch grid after the pixel shuffle by one half."""
        return (self.image // self.patch // 2) ** 2


@dataclass(frozen=True)
class LanguageSize:
    """The language model; `vocabulary` counts the five added tokens, `context` is the longest sequence.

    `head_dim` None is width / heads.
    """

    family: Family = "qwen2"
    layers: int = 24
    width: int = 896
    mlp: int = 4864
    heads: int = 14
    kv_heads: int = 2
    vocabulary: int = 151679
    eps: float = 1e-6
    rope_theta: float = 1e6
    context: int = 32768
    head_dim: int | None = None

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.width // self.heads


@dataclass(frozen=True)
class MLLMSize:
    """Vision tower and language model, and the chat template it is trained with."""

    vision: VisionSize = field(default_factory=VisionSize)
    language: LanguageSize = field(default_factory=LanguageSize)
    template: TemplateName = "qwen_chat"


_VIT_6B = VisionSize(45, 3200, 25, 12800, big=True)
RELEASED: dict[str, MLLMSize] = {  # of the published checkpoints; templates of the released training configurations
    "1b": MLLMSize(),
    "4b": MLLMSize(language=LanguageSize("qwen2", 36, 2048, 11008, 16, 2), template="phi3_chat"),
    "8b": MLLMSize(VisionSize(), LanguageSize("internlm2", 32, 4096, 14336, 32, 8, 92558, 1e-5), "internlm2_chat"),
    "26b": MLLMSize(_VIT_6B, LanguageSize("internlm2", 48, 6144, 16384, 48, 8, 92558, 1e-5), "internlm2_chat"),
}


def transformers_config(size: MLLMSize, image_token: int, attention: str = "sdpa") -> "InternVLConfig":
    """The InternVL configuration that computes exactly what the released remote code computes."""
    from transformers import InternVLConfig, InternVLVisionConfig

    v = size.vision
    vision = InternVLVisionConfig(
        hidden_size=v.width,
        num_hidden_layers=v.layers,
        num_attention_heads=v.heads,
        intermediate_size=v.mlp,
        image_size=v.image,
        patch_size=v.patch,
        attention_bias=not v.big,
        use_qk_norm=v.big,
        norm_type="rms_norm" if v.big else "layer_norm",
        layer_norm_eps=v.eps,
        use_mean_pooling=True,  # leaves the final norm out
    )
    return InternVLConfig(
        vision_config=vision,
        text_config=_text_config(size.language),
        image_token_id=image_token,
        image_seq_length=v.tokens,
        tie_word_embeddings=False,
        attn_implementation=attention,
    )


def _text_config(size: LanguageSize) -> Any:
    from transformers import LlamaConfig, Phi3Config, Qwen2Config

    shared: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_size,
        "max_position_embeddings": size.context,
        "rms_norm_eps": size.eps,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_theta},
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if size.family == "qwen2":
        return Qwen2Config(**shared)
    if size.family == "phi3":
        return Phi3Config(**shared, original_max_position_embeddings=size.context)
    # InternLM2 is Llama with another name for everything; positions beyond the context are stretched.
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": size.rope_theta}
    return LlamaConfig(**{**shared, "rope_parameters": rope}, attention_bias=False)


def size_of_release(config: dict[str, Any]) -> MLLMSize:
    """The sizes in a released checkpoint's `config.json`.

    Raises:
        ValueError: a language model that is not supported.
    """
    vision, text = config["vision_config"], config["llm_config"]
    architecture = (text.get("architectures") or ["?"])[0]
    families: dict[str, Family] = {
        "Qwen2ForCausalLM": "qwen2",
        "InternLM2ForCausalLM": "internlm2",
        "Phi3ForCausalLM": "phi3",
    }
    if architecture not in families:
        raise ValueError(f"config.json: llm_config.architectures {architecture!r} is not one of {sorted(families)}")
    language = LanguageSize(
        families[architecture],
        text["num_hidden_layers"],
        text["hidden_size"],
        text["intermediate_size"],
        text["num_attention_heads"],
        text.get("num_key_value_heads") or text["num_attention_heads"],
        text["vocab_size"],
        text.get("rms_norm_eps", 1e-6),
        text.get("rope_theta", 1e4),
        text.get("max_position_embeddings", 32768),
    )
    return MLLMSize(
        VisionSize(
            vision["num_hidden_layers"],
            vision["hidden_size"],
            vision["num_attention_heads"],
            vision["intermediate_size"],
            vision.get("image_size", 448),
            vision.get("patch_size", 14),
            bool(vision.get("qk_normalization", False)),
            vision.get("layer_norm_eps", 1e-6),
        ),
        language,
    )


def stated_template(folder: Path | None) -> str | None:
    """The chat template that a checkpoint folder's config.json names; None where it names none that is known.

    InternVL2.5's own folders name one that Sa2VA does not use.
    """
    path = None if folder is None else Path(folder) / "config.json"
    if path is None or not path.is_file():
        return None
    stated = json.loads(path.read_text()).get("template")
    stated = stated.replace("-", "_") if isinstance(stated, str) else None
    return stated if stated in get_args(TemplateName) else None


def tokenizer_folder(*folders: Path | None) -> Path | None:
    """The first checkpoint folder that brings its tokenizer along."""
    files = ("tokenizer.json", "tokenizer.model", "vocab.json")
    there = (Path(folder) for folder in folders if folder is not None)
    return next((folder for folder in there if any((folder / file).is_file() for file in files)), None)


def start_folder() -> Path | None:
    """The converted folder that the network starts from, if it is one."""
    start = started()
    return start.path if start is not None and start.path.is_dir() else None


def size_at_start(size: MLLMSize) -> MLLMSize:
    """`size` with the vocabulary of the folder that the network starts from.

    Raises:
        WeightsError: the folder's language model is of another size.
    """
    start = started()
    name = "prompter.mllm.model.model.language_model.embed_tokens.weight"
    if start is None or name not in start.state:
        return size
    rows, width = start.state[name].shape
    if width != size.language.width:
        known = next((key for key, value in RELEASED.items() if value.language.width == width), "of its own")
        raise WeightsError(
            f"{start.path} holds a language model {width} wide, prompter.size asks for {size.language.width}: "
            f"take the recipe of size {known}, or set --model.network.prompter.size"
        )
    return replace(size, language=replace(size.language, vocabulary=rows))


def load_tokenizer(path: Path) -> Any:
    """A tokenizer from a checkpoint folder, a `tokenizer.json` or a SentencePiece `tokenizer.model`.

    Raises:
        ValueError: nothing there, or a tokenizer without [SEG] and the image tokens.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from rvos_lightning.systems.sa2va.conversation import CONTEXT, IMAGE_END, IMAGE_START, SEG

    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such tokenizer; give a folder, a tokenizer.json or a tokenizer.model")
    if path.is_dir() and not (path / "tokenizer.json").exists() and (path / "tokenizer.model").exists():
        path = path / "tokenizer.model"
    if path.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(path)
    elif path.suffix == ".model":  # InternLM2: SentencePiece; its own class is remote code
        from rvos_lightning.systems.sa2va.sentence_pieces import SentencePieces

        tokenizer = SentencePieces.from_pretrained(path.parent, legacy=True)
    else:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    known = tokenizer.get_vocab()
    if absent := [token for token in (SEG, CONTEXT, IMAGE_START, IMAGE_END) if token not in known]:
        raise ValueError(f"{path}: the tokenizer lacks {', '.join(absent)}; add them as special tokens before use")
    return tokenizer

"""Features of frozen encoders on disk, computed once: safetensors shards that are verified, never silently recomputed.

    <root>/<first 16 digits of the fingerprint>/
        manifest.json               what the features are made of, SHA-256 and size of every shard
        index.json                  image -> shard, checksum of every tensor, checksum of the pixels
        shard-00000.safetensors     tensors "<image>/<name>"

Both JSON files and the shards are written beside and renamed; a shard that the manifest does not name does not exist.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

VERSION = 1
LARGEST = 60_000.0
"""Above this float16 is not safe; such a tensor is kept in bfloat16."""

MOST_JSON = 2**30
"""Bytes of an index or manifest that are read at most."""

Verify = Literal["first", "always", "never"]


class CacheError(ValueError):
    """A feature cache that cannot be used; names file or image and the remedy."""


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of everything the features depend on."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder."""
    digest = hashlib.sha256()
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if each.is_file():
            with each.open("rb") as file:
                while block := file.read(2**22):
                    digest.update(block)
    return digest.hexdigest()


def state_digest(module: torch.nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else b"")
    return digest.hexdigest()


def pixel_digest(picture: Float[Tensor, "3 height width"]) -> int:
    """CRC-32 of a frame in 8 bits: a replaced picture, another size or an augmentation is noticed."""
    return zlib.crc32((picture.detach() * 255).round().to(torch.uint8).cpu().contiguous().numpy().tobytes())


def checksum(tensor: Tensor) -> str:
    """64 bits of BLAKE2 of a tensor's bytes."""
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


class FeatureWriter:
    """Adds to a cache, shard by shard; what finished shards hold already is skipped.

    Args:
        root: folder of caches; this one lies beneath, under its fingerprint.
        recipe: everything the features depend on.
        images: a shard holds so many images.

    Raises:
        CacheError: the folder holds a cache that cannot be read.
    """

    def __init__(self, root: Path, recipe: Mapping[str, Any], images: int = 256) -> None:
        self.folder = Path(root) / fingerprint(recipe)[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.recipe, self.images = dict(recipe), images
        self.manifest: dict[str, Any] = {"version": VERSION, "recipe": self.recipe, "shards": {}, "worst_error": {}}
        self.index: dict[str, Any] = {}
        if (self.folder / "manifest.json").exists():
            self.manifest, self.index = _contents(self.folder)
        self._pending: dict[str, dict[str, Tensor]] = {}
        self._pixels: dict[str, int] = {}

    def __contains__(self, image: str) -> bool:
        return image in self.index or image in self._pending

    def add(self, image: str, pixels: int, features: Mapping[str, Tensor]) -> None:
        """Keep an image's features in half precision.

        Raises:
            CacheError: a feature is not finite.
        """
        kept = {}
        for name, tensor in features.items():
            tensor = tensor.detach().float().cpu()
            if not bool(tensor.isfinite().all()):
                raise CacheError(f"image {image}: feature {name!r} is not finite; are the encoder's weights damaged?")
            kind = torch.float16 if float(tensor.abs().max()) < LARGEST else torch.bfloat16
            kept[name] = tensor.to(kind).contiguous()
            error = float((kept[name].float() - tensor).abs().max() / tensor.abs().max().clamp(min=1e-12))
            self.manifest["worst_error"][name] = max(error, self.manifest["worst_error"].get(name, 0.0))
        self._pending[image], self._pixels[image] = kept, pixels
        if len(self._pending) >= self.images:
            self.flush()

    def flush(self) -> None:
        """Write the started shard, then index, then the manifest that makes them exist."""
        if not self._pending:
            return
        from safetensors.torch import save_file

        name = f"shard-{len(self.manifest['shards']):05d}.safetensors"
        tensors = {f"{image}/{n}": t for image, own in self._pending.items() for n, t in own.items()}
        partial = self.folder / (name + ".partial")
        save_file(tensors, partial)
        partial.replace(self.folder / name)
        for image, own in self._pending.items():
            sums = {n: checksum(t) for n, t in own.items()}
            self.index[image] = {"shard": name, "pixels": self._pixels[image], "checksums": sums}
        path = self.folder / name
        self.manifest["shards"][name] = {"sha256": file_digest(path), "bytes": path.stat().st_size}
        self.manifest["images"] = len(self.index)
        _write(self.folder / "index.json", self.index)
        _write(self.folder / "manifest.json", self.manifest)
        self._pending, self._pixels = {}, {}


class FeatureCache:
    """Reads a cache, mapped into memory.

    Args:
        root: folder that the writer was given.
        recipe: what the network would compute; its fingerprint must be there.
        verify: compare checksums of the tensors and of the pixels at an image's `first` reading in this process,
            `always`, or `never`.

    Raises:
        CacheError: no cache of this fingerprint (both are printed), or a shard is missing or cut off.
    """

    def __init__(self, root: Path, recipe: Mapping[str, Any], verify: Verify = "first") -> None:
        wanted, root = fingerprint(recipe), Path(root)
        self.folder, self.verify = root / wanted[:16], verify
        if not (self.folder / "manifest.json").exists():
            raise CacheError(_other(root, recipe, wanted))
        manifest, self.index = _contents(self.folder)
        if fingerprint(manifest["recipe"]) != wanted:
            raise CacheError(f"{self.folder / 'manifest.json'}: was changed: its recipe is not that of its folder")
        for name, facts in manifest["shards"].items():
            path = self.folder / name
            found = path.stat().st_size if path.exists() else 0
            if found != facts["bytes"]:
                raise CacheError(
                    f"{path}: {found} bytes instead of {facts['bytes']}: cut off or lost. Delete {self.folder} and run "
                    "the cache verb again"
                )
        self._open: dict[str, Any] = {}
        self._seen: set[str] = set()

    def read(self, image: str, pixels: Float[Tensor, "3 height width"]) -> dict[str, Tensor]:
        """An image's features as they were stored.

        Raises:
            CacheError: the image is missing, its pixels are others, or a byte has changed.
        """
        entry = self.index.get(image)
        if entry is None:
            raise CacheError(
                f"{self.folder}: image {image!r} is missing among {len(self.index)}: run `python -m rvos_lightning "
                "cache` with this configuration; it adds what is missing"
            )
        file = self._shard(entry["shard"])
        features = {name: file.get_tensor(f"{image}/{name}") for name in entry["checksums"]}
        if self.verify == "always" or (self.verify == "first" and image not in self._seen):
            self._check(image, entry, features, pixels)
            self._seen.add(image)
        return features

    def _check(self, image: str, entry: dict[str, Any], features: dict[str, Tensor], pixels: Tensor) -> None:
        if pixel_digest(pixels) != entry["pixels"]:
            raise CacheError(
                f"image {image!r} is not the picture its cached features were made of: it was replaced, augmented "
                "(data.augment) or resized in another way (data.size); make the cache with this configuration"
            )
        for name, tensor in features.items():
            if checksum(tensor) != entry["checksums"][name]:
                raise CacheError(
                    f"{self.folder / entry['shard']}: feature {name!r} of image {image!r} has changed on disk; delete "
                    f"{self.folder} and run the cache verb again"
                )

    def _shard(self, name: str) -> Any:
        if name not in self._open:
            from safetensors import SafetensorError, safe_open

            try:
                self._open[name] = safe_open(self.folder / name, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CacheError(f"{self.folder / name}: cannot be read: {error}") from error
        return self._open[name]


def verify_shards(folder: Path) -> list[str]:
    """Names of the shards of a cache whose SHA-256 is not the manifest's."""
    shards = _json(folder / "manifest.json")["shards"]
    return [name for name, facts in shards.items() if file_digest(folder / name) != facts["sha256"]]


def _contents(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest, and the index without shards that the manifest does not name (a writer was killed in between)."""
    manifest, index = _json(folder / "manifest.json"), _json(folder / "index.json")
    return manifest, {image: entry for image, entry in index.items() if entry["shard"] in manifest["shards"]}


def _other(root: Path, recipe: Mapping[str, Any], wanted: str) -> str:
    """Why there is no such cache: what is there instead, and in what it differs."""
    found = sorted(path.parent for path in root.glob("*/manifest.json"))
    if not found:
        return (
            f"{root}: no feature cache; run `python -m rvos_lightning cache` with this configuration and --out {root}"
        )
    lines = [f"{root}: no feature cache of fingerprint {wanted[:16]}, which this configuration needs"]
    for folder in found:
        theirs = _json(folder / "manifest.json")["recipe"]
        differs = [
            f"{k}: {theirs.get(k)!r} there, {recipe.get(k)!r} here" for k in recipe if theirs.get(k) != recipe[k]
        ]
        lines.append(f"  {folder.name} differs in {'; '.join(differs)}")
    return "\n".join([*lines, "  give the weights of the cache, or run the cache verb with this configuration"])


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_JSON:
            raise CacheError(f"{path}: {path.stat().st_size} bytes are no index of a feature cache")
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(
            f"{path}: cannot be read as JSON: {error}; delete the folder and run the cache verb"
        ) from error


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)

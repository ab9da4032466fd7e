"""`rvos convert`: official weights to ours and back; from a run one file, or its network or a part, halved."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rvos_lightning.data.whole import whole_folder

SYSTEMS = Path(__file__).parents[1] / "systems"
OURS = ("sa2va_i", "run", "part")
STRAIGHT = ("sam", "sam2", "sam2.1", "sam_2", "mobile_sam", "edge_sam", "tiny_sam", "slim_sam")


def main(words: Sequence[str]) -> int:
    """Convert; returns the exit status (2: refused)."""
    systems = sorted(path.parent.name for path in SYSTEMS.glob("*/official.py"))
    parser = argparse.ArgumentParser(prog="rvos convert", description=__doc__)
    parser.add_argument("system", help=f"one of: {', '.join([*systems, *OURS])}")
    parser.add_argument(
        "source", type=Path, help="official file or folder; for `run` a checkpoint of ours, for `part` a run's folder"
    )
    parser.add_argument("destination", type=Path, help="file or folder to write")
    parser.add_argument("--export", action="store_true", help="from our layout back to the official one")
    parser.add_argument("--sam2", type=Path, help="for sa2va_i: SAM 2.0's own sam2_hiera_large.pt")
    parser.add_argument("--tokenizer", help="folder or hub id whose tokenizer the written file shall hold")
    parser.add_argument(
        "--merge", action="store_true", help="for run: add a fine-tuning's low-rank adapters to their layers"
    )
    parser.add_argument("--part", default="", help="for part: its name in the network, e.g. backbone")
    parser.add_argument("--recipe", type=Path, help="for part: what the run was made with")
    parser.add_argument(
        "--whole", action="store_true", help="for part: keep the rest of the network beside it; without --part: all"
    )
    options = parser.parse_args(list(words))
    if options.system in STRAIGHT:
        return refuse(
            f"{options.system} files need no conversion: give --model.network.segmenter.weights FILE to `fit`"
        )
    if options.system not in (*systems, *OURS):
        return refuse(f"unknown system {options.system!r}; known: {', '.join([*systems, *OURS])}")
    there = options.destination
    if there.is_file() or (there.is_dir() and any(there.iterdir())):
        return refuse(f"{there} is there already, and nothing is overwritten: remove it, or give another destination")
    from rvos_lightning.data.errors import DataError
    from rvos_lightning.parts.weights import WeightsError

    try:
        print(whole_or_nothing(options))
    except (WeightsError, OSError, DataError) as error:
        return refuse(str(error))
    print(f"wrote {options.destination}")
    return 0


def whole_or_nothing(options: argparse.Namespace) -> str:
    """Do what was asked beside the destination, and move it there when it has gone well; returns what there is to say.

    Raises:
        WeightsError: source and system do not go together.
        WriteError: no room, or no permission.
    """
    there = options.destination
    with whole_folder(there) as partial:  # a file just as well
        options.destination = partial
        try:
            return converted(options).replace(str(partial), str(there))
        finally:
            options.destination = there


def converted(options: argparse.Namespace) -> str:
    """Do what was asked; returns what there is to say.

    Raises:
        WeightsError: source and system do not go together.
    """
    if options.system == "run":
        from rvos_lightning.run.consolidate import gather

        return gather(options.source, options.destination, options.merge)
    if options.system == "part":
        from rvos_lightning.parts.weights import WeightsError
        from rvos_lightning.run.foundation import save_part

        if options.recipe is None:
            raise WeightsError("part: the file says what it was made with: give --recipe configs/foundations/NAME.yaml")
        return save_part(options.source, options.destination, options.part, options.recipe, options.whole)
    if options.system == "sa2va_i":
        from rvos_lightning.parts.weights import WeightsError
        from rvos_lightning.systems.sa2va.official import add_original_decoder

        if options.sam2 is None:
            raise WeightsError("sa2va_i takes SAM 2's own decoder: give --sam2 sam2_hiera_large.pt")
        return add_original_decoder(options.source, options.sam2, options.destination)
    official = import_module(f"rvos_lightning.systems.{options.system}.official")
    action = official.export_official if options.export else official.import_official
    told = action(options.source, options.destination)
    return told if options.tokenizer is None else f"{told}\n{keep_tokenizer(options)}"


def keep_tokenizer(options: argparse.Namespace) -> str:
    """Put a tokenizer into the file just written, so that nothing else is needed to read sentences.

    Raises:
        WeightsError: not a file of tensors, or no tokenizer there.
    """
    from rvos_lightning.parts.text.tokenizers import tokenizer_for
    from rvos_lightning.parts.weights import WeightsError, load_official, metadata, save

    if options.export or options.destination.suffix != ".safetensors":
        raise WeightsError("--tokenizer goes into a .safetensors file; folders bring theirs along")
    tokenizer = tokenizer_for(options.tokenizer, None, "--tokenizer")
    said = {**metadata(options.destination), "tokenizer": tokenizer.stored()}
    save(load_official(options.destination), options.destination, said)
    return f"tokenizer {tokenizer.size} ids, from {options.tokenizer}"


def refuse(text: str) -> int:
    """Say what is wrong; exit status 2."""
    print(f"error: {text}", file=sys.stderr)
    return 2

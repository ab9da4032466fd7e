"""The refer API's files, COCO files a split, gRefCOCO and Ref-ZOM; rectangles as polygons on two pictures."""

import json
import pickle
from pathlib import Path

import numpy as np

from layouts.scene import write_json, write_picture

SIZE = (40, 60)
BOXES = {11: (2, 3, 20, 15), 12: (30, 5, 50, 25), 21: (5, 5, 30, 30), 22: (25, 10, 45, 30)}  # x0 y0 x1 y1
IMAGES = {1: (11, 12), 2: (21, 22)}


def polygon(box) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def mask(*boxes) -> np.ndarray:
    """What the polygons cover."""
    out = np.zeros(SIZE, bool)
    for x0, y0, x1, y1 in boxes:
        out[y0:y1, x0:x1] = True
    return out


def file_name(image: int) -> str:
    return f"COCO_train2014_{image:012d}.jpg"


def write_images(root: Path) -> None:
    for image in IMAGES:
        picture = np.random.default_rng(image).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        write_picture(root / "train2014" / file_name(image), picture)


def instances(**changes) -> dict:
    """`instances.json`; `changes` replaces the segmentation of annotation a<id>."""
    images = [{"id": i, "file_name": file_name(i), "height": SIZE[0], "width": SIZE[1]} for i in IMAGES]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "iscrowd": 0,
            "area": 1.0,
            "bbox": [0, 0, 1, 1],
            "segmentation": changes.get(f"a{number}", [polygon(BOXES[number])]),
        }
        for image, numbers in IMAGES.items()
        for number in numbers
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}


def refs() -> list[dict]:
    """Three references: train, testA and testB; the last two on the second picture."""
    out = []
    for number, (annotation, split) in enumerate(((11, "train"), (21, "testA"), (22, "testB"))):
        image = next(i for i, own in IMAGES.items() if annotation in own)
        sentences = [
            {"sent_id": 10 * number + k, "raw": f"The Box, {k}!", "sent": f"the box {k}", "tokens": ["the", "box"]}
            for k in range(2)
        ]
        out.append(
            {
                "ref_id": number,
                "ann_id": annotation,
                "image_id": image,
                "category_id": 1,
                "split": split,
                "file_name": file_name(image).replace(".jpg", f"_{number}.jpg"),
                "sent_ids": [s["sent_id"] for s in sentences],
                "sentences": sentences,
            }
        )
    return out


def refcoco(root: Path, name="refcoco", partition="unc", protocol=2, rename=None, **changes) -> Path:
    """`refs(<partition>).p` as Python wrote it; `rename` gives splits other names."""
    write_images(root)
    write_json(root / name / "instances.json", instances(**changes))
    made = [{**ref, "split": (rename or {}).get(ref["split"], ref["split"])} for ref in refs()]
    (root / name / f"refs({partition}).p").write_bytes(pickle.dumps(made, protocol=protocol))
    return root


def refcoco_coco(root: Path, split="train", name="refcoco") -> Path:
    """One image record a sentence; ids count from 1 anew in each file."""
    write_images(root)
    images, annotations = [], []
    for ref in refs():
        for sentence in ref["sentences"] if ref["split"] == split else ():
            number = len(images) + 1
            picture = {"file_name": file_name(ref["image_id"]), "height": SIZE[0], "width": SIZE[1]}
            names = {"caption": sentence["sent"], "original_id": ref["image_id"], "dataset_name": name}
            images.append({"id": number, **picture, **names})
            shape = [polygon(BOXES[ref["ann_id"]])]
            facts = {"id": number, "image_id": number, "original_id": ref["ann_id"], "category_id": 1}
            annotations.append({**facts, "segmentation": shape, "area": 1.0, "iscrowd": 0, "bbox": [0, 0, 1, 1]})
    content = {"images": images, "annotations": annotations, "categories": []}
    write_json(root / name / f"instances_{name}_{split}.json", content)
    return root


def grefcoco(root: Path) -> Path:
    """Reference 0 means both boxes of a picture, 1 nothing ([-1]), 2 nothing (bare -1)."""
    write_images(root)
    made = refs()
    for ref, ids in zip(made, ([11, 12], [-1], -1), strict=True):
        ref["ann_id"], ref["split"] = ids, "val"
    made[1]["note"] = "an extra key"
    folder = root / "grefcoco"
    folder.mkdir(parents=True)
    (folder / "grefs(unc).json").write_text(json.dumps(made))
    write_json(folder / "instances.json", instances())
    return root


def ref_zom(root: Path) -> Path:
    """The second reference is of source zero although it lists an annotation."""
    write_images(root)
    made = refs()
    for ref, source in zip(made, ("many", "zero", "one"), strict=True):
        ref["split"], ref["source"] = "test", source
    made[0]["ann_id"] = [11, 12]
    folder = root / "ref-zom"
    folder.mkdir(parents=True)
    (folder / "refs(final).p").write_bytes(pickle.dumps(made, protocol=2))
    write_json(folder / "instances.json", instances())
    return root

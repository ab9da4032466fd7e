"""MovingShapes written in the official layouts and read back: two independent readings of the same specification."""

import pytest

import rvos_lightning.data as data

export = pytest.importorskip("rvos_lightning.data.shapes.export")

READ = {
    "davis": "DAVIS",
    "long_rvos": "LongRVOS",
    "lvos": "LVOS",
    "mevis": "MeViS",
    "mevis_v2": "MeViS",
    "mose_v2": "MOSE",
    "own": "OwnVideos",
    "ref_davis": "RefDAVIS",
    "ref_youtube_vos": "RefYouTubeVOS",
    "refcoco": "RefCOCO",
    "revos": "ReVOS",
    "ref_sav": "RefSAV",
    "sav": "SAV",
    "yourvos": "YoURVOS",
    "youtube_vos": "YouTubeVOS",
}
PROMPTED = {"davis", "lvos", "mose_v2", "sav", "youtube_vos"}
ABSENT = {("sav", "train"), ("ref_davis", "train")}


@pytest.mark.parametrize("layout", sorted(READ))
def test_export_reader_batch(tmp_path, layout):
    export.main(["--layout", layout, "--out", str(tmp_path / layout), "--videos", "2", "--size", "48"])
    user = {"simulate_user": data.SimulatedUser()} if layout in PROMPTED else {}
    module = getattr(data, READ[layout])(tmp_path / layout, batch_size=2, clip_length=3, size=48, **user)
    opened = 0
    for split in ("train", "val"):
        if (layout, split) in ABSENT or module.splits[split] is None:
            continue
        reader = module.read(split)
        opened += 1
        for index, item in enumerate(reader.items):
            video = reader.videos[item.video]
            masks, annotated = reader.read_masks(index, range(len(video.frames)))
            frames = reader.read_frames(item.video, [0])
            assert masks.shape[1:] == frames.shape[2:]
            seen = bool(masks[annotated].any())
            assert seen or not item.objects or item.expression is not None, (split, item)
            assert item.objects or not seen
            visible = reader.visible(index)
            if visible is not None and annotated.all():
                assert visible.tolist() == masks.any(-1).any(-1).tolist()
        loader = module.train_dataloader() if split == "train" else module.val_dataloader()
        batch = next(iter(loader))
        assert batch.targets is not None and len(batch.clip) > 0
    assert opened

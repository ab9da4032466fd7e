"""Push and pull: a folder that others can use, in which nothing foreign is ever run."""

import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from noise import noisy

import rvos_lightning
from rvos_lightning.run import hub_folder, pull, push
from rvos_lightning.run.cli import main

ROOT = Path(__file__).parents[1]
HORSE = ROOT / "tests" / "data" / "horsejump" / "frames"
FIT = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "1",
       "--trainer.accelerator", "cpu", "--data.batch_size", "1", "--trainer.num_sanity_val_steps", "0",
       "--data.size", "32"]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of one step, whose weights have got noise: masks that are all empty would be equal whatever happened."""
    run = tmp_path_factory.mktemp("runs") / "0"
    main(["fit", "-c", str(ROOT / "configs/tiny.yaml"), *FIT, "--trainer.default_root_dir", str(run)])
    return noisy(run)


@pytest.fixture(scope="module")
def pushed(run_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert push.main([str(run_folder), "me/shapes", "--out", str(out)]) == 0
    return out / "me" / "shapes"


def masks_of(model):
    return np.concatenate([w.masks for w in model.segment(HORSE, ["the brown horse", "the rider"])], 1)


def test_there_and_back(run_folder, pushed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert pull.main([str(pushed)]) == 0
    assert capsys.readouterr().out.startswith("hub/shapes\n")
    wanted = masks_of(rvos_lightning.load(run_folder))
    assert wanted.any() and not wanted.all()
    assert np.array_equal(masks_of(rvos_lightning.load("shapes")), wanted)  # by name, from hub/
    assert np.array_equal(masks_of(rvos_lightning.load(tmp_path / "hub" / "shapes")), wanted)


def test_predict_and_fit_take_it(run_folder, pushed, tmp_path, monkeypatch, run):
    words = [
        "--data",
        "VideoFiles",
        "--data.path",
        HORSE,
        "--data.expressions",
        "the rider",
        "--callbacks.progress",
        "null",
    ]
    run("predict", "--run", pushed, *words)
    run("predict", "--run", run_folder, *words, folder=tmp_path / "own")
    first, own = tmp_path / "run", tmp_path / "own"
    masks = [path.relative_to(first) for path in (first / "predictions").rglob("masks/*.png")]
    assert masks and all((first / mask).read_bytes() == (own / mask).read_bytes() for mask in masks)
    cli = run("fit", "-c", pushed / "config.yaml", *FIT, folder=tmp_path / "again")
    assert cli.trainer.global_step == 1


def test_the_folder_tells_everything_but_where_it_was_made(run_folder, pushed):
    card = (pushed / "README.md").read_text()
    top = yaml.safe_load(card.split("---")[1])
    assert top["license"] == "apache-2.0" and top["model-index"][0]["results"][0]["metrics"][0]["type"] == "j_and_f"
    for word in (
        "J&F",
        "moving_shapes",
        "MovingShapes, drawn by this package",
        "commit",
        "rvos pull me/shapes",
        "461,138",
    ):
        assert word in card, word
    names = {path.name for path in pushed.iterdir()}
    assert {"config.yaml", "model.safetensors", "README.md", "scores.json", "start.json", "film.png"} <= names
    assert all(pull.known(name) for name in names)
    texts = card + (pushed / "config.yaml").read_text()
    assert str(run_folder) not in texts and "default_root_dir" not in texts
    assert (pushed / "model.safetensors").stat().st_mode & stat.S_IRGRP  # others may read it


def test_places_of_this_machine_stay_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_ana/films").mkdir(parents=True)
    files = ["/a/b.txt", "c.txt", "~/d.txt", "~ana/e.txt", "../of_bob/f.txt", "of_ana/films", "x" * 5000 + "/y"]
    config = {"data": {"init_args": {"root": "/home/me/mevis", "files": files, "words": "left/right"}}, "trainer": {},
              "model": {"weights": "/x/y.ckpt", "text": "google/bert"}, "callbacks": {"x": 1}}  # fmt: skip
    kept = push.for_others(config)
    said = kept["data"]["init_args"]
    assert said["root"] == "mevis" and said["words"] == "left/right" and kept["model"]["text"] == "google/bert"
    assert said["files"] == ["b.txt", "c.txt", "d.txt", "e.txt", "f.txt", "films", files[-1]]
    assert kept["model"]["weights"] is None and "callbacks" not in kept


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.network.class_path", "os.system", "not of this package"),
        ("model.network.class_path", "Popen", "not of this package"),
        ("model.optimizer.class_path", "subprocess.Popen", "not of this package"),
        ("model.network.class_path", "rvos_lightning.run.card.subprocess.Popen", "not of this package"),
        ("model.optimizer.class_path", "torch.nn.functional.torch.hub.load", "not of this package"),
        ("data.class_path", "rvos_lightning.data.import_module", "not of this package"),
        ("model.scheduler", "rvos_lightning.run.card.subprocess.run", "not of this package"),
        ("model.scheduler", "os.system", "names os.system"),
        ("model.lr_scale", {"os.system": 1.0}, "names os.system"),
        ("data.init_args.root", "${oc.env:HOME}", "asks the surroundings"),
        ("model.network.init_args.segmenter", "scores.json", "came with it"),
        ("model.network.init_args.segmenter", "{folder}/scores.json", "came with it"),
        ("model.network", "a\0b", "zero byte"),
        ("model", 3, "no configuration"),
        ("hub", True, "sets hub"),
        ("limits", {"picture_pixels": 1e12}, "sets limits"),
        ("callbacks", {"x": {"class_path": "callbacks.MaskWriter"}}, "sets callbacks"),
        ("trainer.default_root_dir", "/tmp/elsewhere", "sets trainer.default_root_dir"),
        ("trainer.logger", [{"class_path": "CSVLogger"}], "not of this package"),
    ],
)
def test_foreign_configurations_are_refused_everywhere(key, value, said, pushed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "bad"
    shutil.copytree(pushed, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    place = config
    *above, last = key.split(".")
    for part in above:
        place = place[part]
    place[last] = value.replace("{folder}", str(folder)) if isinstance(value, str) else value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(hub_folder.HubError, match=said):
        rvos_lightning.load(folder)
    own = ["-c", folder / "config.yaml"]
    for words in (["predict", "--run", folder], ["fit", *own], ["cache", *own, "--out", tmp_path], ["forecast", *own]):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert stop.value.code == 2 and said in capsys.readouterr().err
    assert pull.main([str(folder), "--out", str(tmp_path / "hub")]) == 2
    assert not (tmp_path / "hub").exists()


def test_every_class_that_a_shipped_configuration_names_is_ours():
    named = {
        value
        for path in (ROOT / "configs").rglob("*.yaml")
        for key, value in hub_folder.leaves("", yaml.safe_load(path.read_text()))
        if key.split(".")[-1] == "class_path" and value.startswith(hub_folder.OURS)
    }
    assert len(named) > 60
    assert [value for value in sorted(named) if not hub_folder.defined_here(value)] == []


def test_trust_lets_others_in(pushed, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "from rvos_lightning.parts.memories.frame_by_frame import FrameByFrame\nclass Theirs(FrameByFrame): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "other"
    shutil.copytree(pushed, folder)
    text = (folder / "config.yaml").read_text()
    ours = "rvos_lightning.parts.memories.frame_by_frame.FrameByFrame"
    (folder / "config.yaml").write_text(text.replace(ours, "theirs.Theirs"))
    with pytest.raises(hub_folder.HubError, match="trust"):
        rvos_lightning.load(folder)
    assert "theirs" not in sys.modules
    model = rvos_lightning.load(folder, trust=True)
    assert type(model.network.memory).__name__ == "Theirs"


def test_a_small_file_of_endless_aliases_is_refused(pushed, tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    shutil.copytree(pushed, tmp_path / "x")
    (tmp_path / "x" / "config.yaml").write_text("model: {}\n" + "\n".join(lines))
    with pytest.raises(hub_folder.HubError, match="values"):
        hub_folder.check(tmp_path / "x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "me/shapes"], "there already"),
        (["RUN", "../up"], "no name"),
        (["nowhere", "me/other"], "no run"),
    ],
)
def test_what_push_refuses(words, said, run_folder, pushed, capsys):
    words = [str(run_folder) if word == "RUN" else word for word in words]
    assert push.main([*words, "--out", str(pushed.parents[1])]) == 2
    assert said in capsys.readouterr().err


def test_up_and_down_through_a_hub(run_folder, tmp_path, monkeypatch, capsys):
    """The hub's own client calls, answered by a folder."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    hub = tmp_path / "server"

    class Place(str):
        repo_id = "me/shapes"

    class Api:
        def create_repo(self, name, private, exist_ok):
            return Place(f"https://hub/{name}")

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            shutil.copytree(folder_path, hub / repo_id)

    def snapshot_download(name, revision, local_dir, allow_patterns):
        if not (hub / name).exists():
            raise ValueError(f"no {name}")
        shutil.copytree(hub / name, local_dir, ignore=lambda _, names: [n for n in names if not pull.known(n)])

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert RepositoryNotFoundError  # the client's own errors are what `pull` waits for
    assert push.main([str(run_folder), "me/shapes", "--out", str(tmp_path / "a"), "--hub"]) == 0
    assert "https://hub/me/shapes" in capsys.readouterr().out
    (hub / "me/shapes/setup.py").write_text("raise SystemExit")
    assert pull.main(["me/shapes", "--out", str(tmp_path / "b")]) == 2 and "--hub" in capsys.readouterr().err
    assert pull.main(["me/none", "--out", str(tmp_path / "b"), "--hub"]) == 2 and "refuses" in capsys.readouterr().err
    assert pull.main(["me/shapes", "--out", str(tmp_path / "b"), "--hub"]) == 0
    assert hub_folder.is_hub_folder(tmp_path / "b/me/shapes") and not (tmp_path / "b/me/shapes/setup.py").exists()

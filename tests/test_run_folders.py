"""A run folder is never overwritten; what was asked for is found, or said not to be there."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from launch import finish, start

from rvos_lightning.run import checkpoints, folder
from rvos_lightning.run.loggers import with_csv
from rvos_lightning.run.saved_config import portable
from rvos_lightning.run.words import WordsError, fault, said_in_full

ROOT = Path(__file__).parents[1]
QUICK = [
    "--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "2",
    "--trainer.check_val_every_n_epoch", "null", "--trainer.accelerator", "cpu", "--data.batch_size", "1",
    "--trainer.num_sanity_val_steps", "0", "--trainer.enable_progress_bar", "false", "--data.val_clips", "2",
    "--data.test_clips", "2", "--data.size", "32", "--data.clip_length", "2",
]  # fmt: skip
FIT = ["fit", "-c", "configs/tiny.yaml", *QUICK]
FRAMES = ["--data", "VideoFiles", "--data.path", "tests/data/horsejump/frames", "--data.expressions", "the horse"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working folder in which one short run was made, `runs/tiny/fit/0`."""
    place = tmp_path_factory.mktemp("work")
    for name in ("configs", "tests"):
        (place / name).symlink_to(ROOT / name)
    before = os.getcwd()
    os.chdir(place)
    try:
        _main(*FIT)
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def work(trained, tmp_path, monkeypatch):
    """A fresh copy of it, as the present folder."""
    shutil.copytree(trained, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("sys.argv", ["rvos"])
    return tmp_path / "work"


def _main(*words):
    import warnings

    from rvos_lightning.run.cli import main

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return main([str(word) for word in words])


def refused(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        _main(*words)
    shown = capsys.readouterr()
    text = shown.err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert stop.value.code not in (0, None) and "Traceback" not in text and len(text.splitlines()) <= 8, text
    return text


def contents(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_a_saved_configuration_runs_into_a_new_folder_with_any_verb(work, capsys):
    before = contents(work / "runs/tiny/fit/0")
    for words, made in (
        (["fit", "-c", "runs/tiny/fit/0/config.yaml"], "runs/tiny/fit/1"),
        (["predict", "--run", "runs/tiny/fit/0", *FRAMES], "runs/tiny/predict/0"),
        (["validate", "-c", "runs/tiny/fit/0/config.yaml", "--ckpt_path", "last"], "runs/tiny/validate/0"),
        (["test", "-c", "runs/tiny/fit/0/config.yaml", "--ckpt_path", "best"], "runs/tiny/test/0"),
    ):
        _main(*words)
        assert capsys.readouterr().out.splitlines()[-1] == made  # every verb ends with the folder it wrote
        assert (work / made / "config.yaml").exists()
    assert contents(work / "runs/tiny/fit/0") == before
    again = yaml.safe_load((work / "runs/tiny/fit/1/config.yaml").read_text())
    assert again == yaml.safe_load((work / "runs/tiny/fit/0/config.yaml").read_text())
    assert again["trainer"]["default_root_dir"] is None and again["ckpt_path"] is None


def test_a_folder_that_holds_a_run_is_continued_or_left_alone(work, capsys):
    where = ["--trainer.default_root_dir", "runs/tiny/fit/0"]
    before = contents(work / "runs/tiny/fit/0")
    assert "--ckpt_path last" in refused(capsys, *FIT, *where)
    assert "holds a run of `fit`" in refused(capsys, "validate", "-c", "configs/tiny.yaml", "--untrained", *where)
    assert contents(work / "runs/tiny/fit/0") == before
    _main(*FIT, *where, "--ckpt_path", "last", "--trainer.max_steps", "4")
    assert (work / "runs/tiny/fit/0/config_1.yaml").exists()  # what the first start was, and what the second is
    saved = [yaml.safe_load((work / "runs/tiny/fit/0" / name).read_text()) for name in ("config_1.yaml", "config.yaml")]
    assert [config["trainer"]["max_steps"] for config in saved] == [2, 4]


def test_last_that_is_not_there_is_an_error_but_in_fit(work, capsys):
    assert "no checkpoint in" in refused(capsys, "validate", "-c", "configs/tiny.yaml", "--ckpt_path", "last")
    assert "no checkpoint in" in refused(capsys, "test", "-c", "configs/tiny.yaml", "--ckpt_path", "best")
    _main(*FIT, "--ckpt_path", "last")
    assert "starting anew" in capsys.readouterr().out
    assert not (work / "runs/tiny/validate").exists()  # failed starts leave no folders


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_random_weights_are_not_evaluated_unasked(work, capsys, verb):
    assert "--untrained" in refused(capsys, verb, "-c", "configs/tiny.yaml")
    assert not (work / "runs/tiny" / verb).exists()


def test_random_weights_are_evaluated_when_asked(work, capsys):
    _main(
        "validate", "-c", "configs/tiny.yaml", *QUICK[2:4], "--data.val_clips", "2", "--data.size", "32", "--untrained"
    )
    assert "J&F" in capsys.readouterr().out


def test_a_failed_start_leaves_nothing(work, capsys):
    text = refused(capsys, *FIT, "--trainer.num_sanity_val_steps", "1", "--callbacks.best.monitor", "val/jandf")
    assert "val/jandf" in text and "nearest   val/j_and_f" in text  # before training, not after the first validation
    assert sorted(path.name for path in (work / "runs/tiny/fit").iterdir()) == ["0"]


@pytest.mark.parametrize("monitor", ["j_and_f", "nosuch"])
def test_a_monitor_of_early_stopping_that_nothing_logs(work, capsys, monitor):
    """Known before training where a score has nearly that name, else at the first validation; no traceback."""
    stop = ["--callbacks.stop", "EarlyStopping", "--callbacks.stop.monitor", monitor]
    often = ["--trainer.num_sanity_val_steps", "1", "--trainer.val_check_interval", "1"]
    text = refused(capsys, *FIT, *stop, *often)
    assert f"EarlyStopping monitors '{monitor}', which no metric logs" in text and "val/j_and_f" in text


def test_a_logger_given_by_flag_writes_into_the_run_folder(work):
    _main(*FIT, "--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", "mine")
    made = work / "runs/tiny/fit/1"
    assert (
        (made / "config.yaml").exists() and list(made.glob("csv/*/metrics.csv")) and list(Path("mine").rglob("*.csv"))
    )


def wandb_in(folder):
    """A configured W&B logger, and what becomes of its arguments in a run folder."""
    arguments = Namespace(id=None, version=None, save_dir=".")
    trainer = Namespace(logger=Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=arguments))
    with_csv(trainer, str(folder))
    return arguments


def test_a_run_that_goes_on_goes_on_in_its_wandb_run(tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]
    for place in folders:
        place.mkdir()
    first, again, other = wandb_in(folders[0]), wandb_in(folders[0]), wandb_in(folders[1])
    assert first.id and first.id == again.id != other.id and first.save_dir == str(folders[0])
    logger = {"class_path": "x", "init_args": {"id": first.id, "save_dir": str(folders[0])}}
    saved = portable({"trainer": {"logger": [logger]}}, folders[0])
    assert saved["trainer"]["logger"][0]["init_args"] == {"id": None, "save_dir": "."}  # a new run is a new one there


def test_run_means_its_configuration_and_best_weights(work):
    said = said_in_full(["predict", "--run", "runs/tiny/fit/0", "--hub", "--data.path", "x.mp4"])
    config, best = "runs/tiny/fit/0/config.yaml", "--model.weights=runs/tiny/fit/0/checkpoints/best.ckpt"
    assert said == ["predict", "-c", config, best, "--hub=true", "--data.path", "x.mp4"]
    with pytest.raises(WordsError, match="nearest   runs/tiny/fit/0"):
        said_in_full(["predict", "--run", "runs/tiny/fit/7"])


def test_two_recipes_are_refused_and_overlays_are_not(work):
    text = fault(["fit", "-c", "configs/samwise.yaml", "-c", "configs/tiny.yaml"])
    assert "configs/samwise.yaml and configs/tiny.yaml are both recipes" in text and "\n" not in text
    assert (
        fault(["fit", "-c", "configs/tiny.yaml", "-c", "configs/data/mevis.yaml", "-c", "configs/trainer/ddp.yaml"])
        is None
    )


def test_videos_of_one_name_get_a_result_each_and_are_not_done_twice(work, capsys):
    source = ROOT / "tests/data/horsejump/frames"
    for name in ("judo", "bike"):
        shutil.copytree(source, work / name / "images")
    for suffix in ("jpg", "png"):  # one stem, and a name with a dot
        shutil.copy(next(source.glob("*.jpg")), work / "judo/images" / f"shot.0001.{suffix}")
    words = ["predict", "--run", "runs/tiny/fit/0", *FRAMES[:2], "--data.path", '["judo/images", "bike/images"]',
             "--data.expressions", "the $5 note and the $10 note, $_$", "--data.eval_batch_size", "4",
             "--trainer.default_root_dir", "out"]  # fmt: skip
    _main(*words)
    made = Path("out/predictions")
    assert sorted(path.name for path in made.iterdir()) == ["bike_images", "judo_images"]
    frames = len(list(source.glob("*.jpg")))
    assert len(list((made / "bike_images/masks").iterdir())) == frames
    assert len(list((made / "judo_images/masks").iterdir())) == frames + 2
    assert all((made / name / "contact_sheet.png").exists() for name in ("bike_images", "judo_images"))
    written = (made / "bike_images/record.json").stat().st_mtime_ns
    capsys.readouterr()
    shutil.rmtree(made / "judo_images")
    _main(*words)
    assert "1 of 2 videos are done" in capsys.readouterr().out
    assert (made / "bike_images/record.json").stat().st_mtime_ns == written
    assert json.loads((made / "judo_images/record.json").read_text())["complete"]
    other = [word.replace("$5 note", "cat") for word in words]
    with pytest.raises(SystemExit, match="judo_images: holds results of other weights, prompts or frames"):
        _main(*other)
    assert (made / "bike_images/record.json").stat().st_mtime_ns == written
    _main(*other, "--skip_done", "false")
    assert "the cat and" in (made / "bike_images/record.json").read_text()


def test_films_of_one_size_and_length_each_get_a_result(work):
    import av

    for name in ("a", "b"):
        (work / name).mkdir()
        with av.open(str(work / name / "clip.mp4"), "w") as film:
            stream = film.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for picture in torch.randint(0, 255, (4, 32, 48, 3), dtype=torch.uint8).numpy():
                film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            film.mux(stream.encode())
    _main("predict", "--run", "runs/tiny/fit/0", *FRAMES[:2], "--data.path", '["a/clip.mp4", "b/clip.mp4"]',
          "--data.expressions", '["the man", "the dog"]', "--data.eval_batch_size", "4")  # fmt: skip
    made = Path("runs/tiny/predict/0/predictions")
    records = {path.parent.name: json.loads(path.read_text()) for path in made.glob("*/record.json")}
    assert set(records) == {"a_clip", "b_clip"} and all(len(r["expressions"]) == 2 for r in records.values())


def test_sigterm_ends_predict_and_the_same_words_go_on(work):
    for name in ("one", "two"):
        shutil.copytree(ROOT / "tests/data/horsejump/frames", work / name)
    words = [
        "predict", "--run", work / "runs/tiny/fit/0", *FRAMES[:2],
        "--data.path", json.dumps([f"{work}/one", f"{work}/two"]),
        "--data.expressions", "the horse", "--model.window", "1", "--data.eval_batch_size", "1",
        "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu",
        "--trainer.default_root_dir", work / "out",
        "--callbacks.slow", "slow.SlowWindows", "--callbacks.slow.seconds", "0.5",
    ]  # fmt: skip
    process = start(*words)
    done = work / "out/predictions/one/record.json"
    deadline = time.monotonic() + 120
    while not done.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    sent = time.monotonic()
    printed = finish(process)
    assert process.returncode == 143 and "stopped: SIGTERM" in printed, printed[-2000:]
    assert time.monotonic() - sent < 20  # a window takes half a second, the rest of the video far longer
    assert json.loads(done.read_text())["complete"]
    written = done.stat().st_mtime_ns
    again = start(*words, "--callbacks.slow", "null")
    assert "1 of 2 videos are done" in finish(again) and again.returncode == 0
    assert done.stat().st_mtime_ns == written and json.loads((work / "out/predictions/two/record.json").read_text())


def _claimed(place, words, ready, leave):
    held = folder.claim(str(place), "fit", words, goes_on=True)
    ready.set()
    leave.wait(30)
    held.release(True)


def test_a_folder_in_use_is_locked(tmp_path, monkeypatch):
    monkeypatch.delenv(folder.RUN_DIR, raising=False)
    process = multiprocessing.get_context("spawn")
    ready, leave = process.Event(), process.Event()
    other = process.Process(target=_claimed, args=(tmp_path / "run", ["fit"], ready, leave))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(folder.FolderError, match=f"in use by process {other.pid}"):
            folder.claim(str(tmp_path / "run"), "fit", ["fit"], goes_on=True)
    finally:
        leave.set()
        other.join(30)
    monkeypatch.delenv(folder.RUN_DIR, raising=False)
    folder.claim(str(tmp_path / "run"), "fit", ["fit"], goes_on=True).release(True)
    monkeypatch.delenv(folder.RUN_DIR, raising=False)


def claimed(monkeypatch, *words, **slurm) -> Path:
    for key in ("SLURM_RESTART_COUNT", "SLURM_STEP_ID", "SLURM_PROCID", folder.RUN_DIR):
        monkeypatch.delenv(key, raising=False)
    for key, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    held = folder.claim(None, "fit", ["fit", "-c", "tiny.yaml", *words], goes_on=False)
    if held.ours:
        (held.path / "scores.json").write_text("{}")
    held.release(True)
    monkeypatch.delenv(folder.RUN_DIR, raising=False)
    return held.path


def test_two_fits_in_one_job_get_two_folders_and_a_requeued_job_finds_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = {"JOB_ID": "4711", "NTASKS": "1"}
    first = claimed(monkeypatch, "--model.optimizer.lr=1", **job)
    second = claimed(monkeypatch, "--model.optimizer.lr=2", **job)
    third = claimed(monkeypatch, "--model.optimizer.lr=1", **job)  # the very same words, once more
    assert [path.name for path in (first, second, third)] == ["4711", "4711-1", "4711-2"]
    restarted = {**job, "RESTART_COUNT": "1"}
    assert claimed(monkeypatch, "--model.optimizer.lr=2", **restarted) == second  # in whatever order
    assert claimed(monkeypatch, "--model.optimizer.lr=1", **restarted) == first
    assert claimed(monkeypatch, "--model.optimizer.lr=1", **restarted) == third


def test_processes_of_one_step_share_the_folder_that_the_first_one_chose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = {"JOB_ID": "4711", "NTASKS": "2", "STEP_ID": "0", "STEP_NUM_TASKS": "2"}
    first = claimed(monkeypatch, **step, PROCID="0")
    assert claimed(monkeypatch, **step, PROCID="1") == first
    other = claimed(monkeypatch, **{**step, "STEP_ID": "1"}, PROCID="0")
    assert other != first and claimed(monkeypatch, **{**step, "STEP_ID": "1"}, PROCID="1") == other


def test_checkpoints_none_of_which_can_be_read_stop_the_run(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"cut off")
    with pytest.warns(UserWarning), pytest.raises(checkpoints.CheckpointError, match="none of its checkpoints"):
        checkpoints.newest_checkpoint(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "best.ckpt")
    os.utime(tmp_path / "best.ckpt", (0, 0))
    with pytest.warns(UserWarning):
        assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / "best.ckpt"


def test_an_empty_folder_does_not_win(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "best.ckpt")
    (tmp_path / "last.ckpt").mkdir()
    assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / "best.ckpt"
    (tmp_path / "best.ckpt").unlink()
    assert checkpoints.newest_checkpoint(tmp_path) is None


def test_checkpoints_are_written_beside_their_target(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no room here"))
    target = tmp_path / "checkpoints/last.ckpt"
    checkpoints.AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3)}, target)
    assert torch.equal(torch.load(target)["a"], torch.ones(3)) and [p.name for p in target.parent.iterdir()] == [
        target.name
    ]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    target = tmp_path / "last.ckpt"
    plugin = checkpoints.AtomicCheckpointIO()
    plugin.save_checkpoint({"step": 1}, target)

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(checkpoints.CheckpointError, match="No space left.*is kept"):
        plugin.save_checkpoint({"step": 2}, target)
    assert torch.load(target) == {"step": 1} and [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("given", "words"),
    [("nowhere.ckpt", "no such checkpoint"), ("w.safetensors", "--model.weights"), ("cut.ckpt", "not a readable"),
     ("weights.ckpt", "convert"), ("empty", "without FSDP2")],
)  # fmt: skip
def test_a_wrong_checkpoint_is_one_line(work, capsys, given, words):
    Path("w.safetensors").write_bytes(b"")
    Path("cut.ckpt").write_bytes(Path("runs/tiny/fit/0/checkpoints/last.ckpt").read_bytes()[:1000])
    torch.save({"a": torch.ones(1)}, "weights.ckpt")
    Path("empty").mkdir()
    assert words in refused(capsys, *FIT, "--ckpt_path", given)


def test_weights_that_are_no_numbers_replace_no_checkpoint(work, capsys):
    before = contents(work / "runs/tiny/fit/0/checkpoints")
    text = refused(
        capsys, *FIT, "--trainer.max_steps", "4", "--trainer.default_root_dir", "runs/tiny/fit/0",
        "--ckpt_path", "last",
        "--callbacks.spoil", "spoil.SpoilAt", "--callbacks.spoil.step", "3", "--callbacks.last.every_n_steps", "1",
    )  # fmt: skip
    assert "last good checkpoint is kept" in text
    assert contents(work / "runs/tiny/fit/0/checkpoints").keys() == before.keys()
    state = torch.load("runs/tiny/fit/0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())

"""Facts of the command line that surprise people; each has a test because each once surprised us."""

import subprocess
import sys
import time

import pytest
import yaml

QUICK = [
    "--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu",
    "--data.workers", "0", "--data.batch_size", "2", "--trainer.enable_progress_bar", "false",
]  # fmt: skip


def printed(run, capsys, *args) -> dict:
    with pytest.raises(SystemExit) as stop:
        run(*args, "--print_config")
    assert stop.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


def refused(run, capsys, *args) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*args)
    out = capsys.readouterr()
    text = out.out + out.err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert stop.value.code not in (0, None)
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) <= 8, text
    return text


def test_printed_config_is_yaml_alone_where_libraries_chatter(root):
    """In a process of its own: DeepSpeed warns once, when it is imported."""
    overlays = ["-c", "configs/tiny.yaml", "-c", "configs/trainer/deepspeed3.yaml"]
    command = [sys.executable, "-m", "rvos_lightning", "fit", *overlays, "--print_config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert yaml.safe_load(done.stdout)["trainer"]["strategy"]["init_args"]["stage"] == 3


def test_help_is_quick():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rvos_lightning", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "fit" in done.stdout and "predict" in done.stdout
    assert time.perf_counter() - start < 30  # a guard against heavy imports only; the figure is a benchmark's


def test_a_flag_reaches_what_was_interpolated_from_it(run, capsys, tmp_path):
    asking = tmp_path / "asking.yaml"
    asking.write_text("model: {scheduler: {init_args: {total: '${trainer.max_steps}'}}}\n")
    config = printed(run, capsys, "fit", "-c", "configs/tiny.yaml", "-c", asking, "--trainer.max_steps", "123")
    assert config["model"]["scheduler"]["init_args"]["total"] == 123


def test_a_later_file_reaches_what_was_interpolated_in_an_earlier_one(run, capsys, tmp_path):
    asking, later = tmp_path / "asking.yaml", tmp_path / "later.yaml"
    asking.write_text("model: {scheduler: {init_args: {total: '${trainer.max_steps}'}}}\n")
    later.write_text("trainer: {max_steps: 77}\n")
    config = printed(run, capsys, "fit", "-c", "configs/tiny.yaml", "-c", asking, "-c", later)
    assert config["model"]["scheduler"]["init_args"]["total"] == 77


def test_environment_resolver_with_default(run, capsys, tmp_path, monkeypatch):
    later = tmp_path / "later.yaml"
    later.write_text("seed_everything: ${oc.env:RVOS_TEST_SEED,5}\n")
    assert printed(run, capsys, "fit", "-c", "configs/tiny.yaml", "-c", later)["seed_everything"] == 5
    monkeypatch.setenv("RVOS_TEST_SEED", "9")
    assert printed(run, capsys, "fit", "-c", "configs/tiny.yaml", "-c", later)["seed_everything"] == 9


def test_printed_config_runs_as_it_is_and_prints_itself_again(run, capsys, tmp_path):
    first = printed(run, capsys, "fit", "-c", "configs/tiny.yaml", *QUICK)
    path = tmp_path / "printed.yaml"
    path.write_text(yaml.safe_dump(first))
    assert printed(run, capsys, "fit", "-c", path) == first
    assert run("fit", "-c", path).trainer.global_step == 2


def test_saved_config_re_runs(run, tmp_path):
    run("fit", "-c", "configs/tiny.yaml", *QUICK)
    saved = tmp_path / "run" / "config.yaml"
    assert run("fit", "-c", saved, folder=tmp_path / "again").trainer.global_step == 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--objectives.mask.dice", "5"], {"mask": {"dice": 5}}),
        (["--objectives.mask", "null"], {"mask": None}),
        (["--objectives.second", "callbacks.DiceFocal", "--objectives.second.focal", "0"], {"second": {"focal": 0}}),
    ],
)
def test_objectives_change_by_flag(run, capsys, flags, expected):
    objectives = printed(run, capsys, "fit", "-c", "configs/tiny.yaml", *flags)["objectives"]
    for name, arguments in expected.items():
        if arguments is None:
            assert objectives[name] is None
        else:
            assert arguments.items() <= objectives[name]["init_args"].items()


def test_objectives_of_a_later_file_replace_all(run, capsys, tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("objectives: {only: {class_path: callbacks.DiceFocal}}\n")
    assert set(printed(run, capsys, "fit", "-c", "configs/tiny.yaml", "-c", later)["objectives"]) == {"only"}


def test_callbacks_of_a_trainer_list_are_appended(run, capsys, tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("trainer: {callbacks+: [{class_path: lightning.pytorch.callbacks.LearningRateMonitor}]}\n")
    cli = run("fit", "-c", "configs/tiny.yaml", "-c", later, *QUICK)
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert "LearningRateMonitor" in names and "DiceFocal" in names and "FilmStrip" in names


def test_arguments_of_one_class_merge_key_by_key(run, capsys, tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("model: {optimizer: {class_path: torch.optim.AdamW, init_args: {weight_decay: 0.5}}}\n")
    optimizer = printed(run, capsys, "fit", "-c", "configs/tiny.yaml", "-c", later)["model"]["optimizer"]["init_args"]
    assert optimizer["weight_decay"] == 0.5 and optimizer["lr"] == 0.002


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.netwrk", "3"], ["model.netwrk", "network"]),
        (["--trainer.max_step", "3"], ["trainer.max_step", "max_steps"]),
        (["--model.network.segmenter.prompt_dm", "3"], ["prompt_dm", "prompt_dim"]),
        (["--model.window", "abc"], ["model.window", "abc", "int"]),
        (["--model.network.adapter", "rvos_lightning.systems.tiny.segmenter.TinySegmenter"], ["subclass of Adapter"]),
        (["--model.network.adapter", "rvos_lightning.systems.tiny.film_adapter.FiLMAdaptr"], ["FiLMAdapter"]),
        (["-c", "configs/nothere.yaml"], ["configs/nothere.yaml"]),
        (["--modle.window", "3"], ["modle", "model"]),
    ],
)
def test_errors_name_key_value_and_neighbours(run, capsys, flags, words):
    text = refused(run, capsys, "fit", "-c", "configs/tiny.yaml", *flags)
    for word in words:
        assert word in text


def test_fit_without_a_loss_is_refused(run, capsys):
    assert "--objectives.mask" in refused(
        run, capsys, "fit", "-c", "configs/tiny.yaml", *QUICK, "--objectives.mask", "null"
    )


def test_parts_that_do_not_fit_are_named(run, capsys):
    text = refused(run, capsys, "fit", "-c", "configs/tiny.yaml", *QUICK, "--model.network.prompter.text_dim", "32")
    assert "text_dim" in text


def test_weights_of_another_system_are_refused(run, capsys, tmp_path):
    import torch

    from rvos_lightning.parts.weights import save

    save({"somewhere.else": torch.zeros(3)}, tmp_path / "other.safetensors")
    args = ["fit", "-c", "configs/tiny.yaml", *QUICK, "--model.weights", tmp_path / "other.safetensors"]
    text = refused(run, capsys, *args)
    assert "another system" in text and "somewhere.else" in text

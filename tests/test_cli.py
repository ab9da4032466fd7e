"""Facts of the command line that surprise people; each has a test because each once surprised us."""

import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import torch
import yaml
from launch import environment, python

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
    """In a process of its own: DeepSpeed warns once, when it is imported, Triton about what nobody frees in the end."""
    overlays = ["-c", "configs/tiny.yaml", "-c", "configs/trainer/deepspeed3.yaml"]
    command = [sys.executable, "-m", "rvos_lightning", "fit", *overlays, "--print_config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert yaml.safe_load(done.stdout)["trainer"]["strategy"]["init_args"]["stage"] == 3
    assert "leaked" not in done.stderr


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


def test_callbacks_of_a_file_join_the_usual_ones(run, tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("callbacks: {rate: {class_path: lightning.pytorch.callbacks.LearningRateMonitor}, film: null}\n")
    cli = run("fit", "-c", "configs/tiny.yaml", "-c", later, *QUICK)
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert {"LearningRateMonitor", "LastCheckpoint", "BestCheckpoint"} <= set(names) and "FilmStrip" not in names
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["callbacks"]
    assert saved["film"] is None and {"rate", "last", "best"} <= saved.keys()


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
    from rvos_lightning.parts.weights import save

    save({"somewhere.else": torch.zeros(3)}, tmp_path / "other.safetensors")
    args = ["fit", "-c", "configs/tiny.yaml", *QUICK, "--model.weights", tmp_path / "other.safetensors"]
    text = refused(run, capsys, *args)
    assert "another system" in text and "somewhere.else" in text


def test_null_is_null_however_deep(run, capsys):
    flags = ["--model.network.segmenter.weights", "null", "--model.network.adapter.text.weights=null"]
    network = printed(run, capsys, "fit", "-c", "configs/samwise.yaml", *flags)["model"]["network"]["init_args"]
    assert network["segmenter"]["init_args"]["weights"] is None
    assert network["adapter"]["init_args"]["text"]["init_args"]["weights"] is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--objectives.masc.dice", "5"], ["objectives has no 'masc'", "nearest   mask"]),
        (["--objectives.second", "callbacks.DiceFocall"], ["no class callbacks.DiceFocall", "DiceFocal"]),
        (["--data.difficulty", "mediun"], ["one of: easy, medium, hard", "nearest   medium"]),
        (["--trainer.max_steps=1e3"], ["write 1000"]),
        (["--lr", "1e-3"], ["nearest   model.optimizer.lr"]),
        (["--model.optimizer.init_args.lrr", "1e-3"], ["model.optimizer.lrr", "nearest   lr"]),
        (["--model.window", "${oc.env:RVOS_NOT_THERE}"], ["RVOS_NOT_THERE", "is not set", "model.window"]),
        (["--model.window", "${trainer.max_stps}"], ["no such key", "trainer.max_steps"]),
        (["--trainer.strategy", "dpp"], ["no strategy 'dpp'", "nearest   ddp"]),
        (["--trainer.accelerator", "gpu"], ["--trainer.accelerator cpu"]),
        (["--trainer.devices", "0", "--trainer.accelerator", "cpu"], ["--trainer.devices 1"]),
        (["--trainer.logger", "WandbLogger"], ["WandbLogger needs the package wandb: pip install wandb"]),
        (["--seed_everything", "-1"], ["seed_everything"]),
        (["--trainer.val_check_interval", "0"], ["val_check_interval"]),
        (["--trainer.max_steps", "0"], ["trainer.max_steps is 0", "give 1 or more"]),
        (["--trainer.max_epochs", "0"], ["trainer.max_epochs is 0"]),
        (["--trainer.enable_checkpointing", "false"], ["--callbacks.best null"]),
        (["--model.network.adapter", "CMTAdapter"], ["CMTAdapter needs", "--model.network.adapter."]),
        (["-c", "configs/tinny.yaml"], ["no such file", "nearest   configs/tiny.yaml"]),
        (["-c", "README.md"], ["not YAML"]),
        (["-c", "configs"], ["is a folder"]),
        (["-c", "configs/samwise.yaml"], ["are both recipes"]),
        (["-c", "/dev/null"], ["no plain file", "save it first"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_what_cannot_be_meant_is_a_few_lines_and_no_traceback(run, capsys, flags, words):
    if "WandbLogger" in flags and find_spec("wandb"):
        pytest.skip("wandb is installed")
    if "gpu" in flags and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    text = refused(run, capsys, "fit", "-c", "configs/tiny.yaml", *flags)
    for word in words:
        assert word in text, text


def test_a_bug_of_ours_keeps_its_traceback():
    from rvos_lightning.run.failures import explain_exception

    try:
        first, second = _two_of_none()
    except ValueError as error:
        assert explain_exception(error, []) is None


def _two_of_none():
    return []


def test_short_names_resolve_in_a_fresh_process(root):
    """In a process of its own, which has imported no data set; a sentence stands where a list is due."""
    words = ["predict", "-c", "configs/tiny.yaml", "--data", "VideoFiles", "--data.path", "x.mp4",
             "--data.expressions", "the $5 note: red, or blue", "--print_config"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "rvos_lightning", *words], capture_output=True, text=True, cwd=root)
    data = yaml.safe_load(done.stdout)["data"]
    assert data["class_path"].endswith("VideoFiles") and data["init_args"]["expressions"] == [
        "the $5 note: red, or blue"
    ]


OFFLINE = """
import os, socket, sys
{imports}
def connect(self, address, *rest):
    if self.family != socket.AF_UNIX:
        print("CONNECTS", address, flush=True)
        raise OSError("no network in tests")
def look_up(host, *rest, **more):
    print("LOOKS UP", host, flush=True)
    if {more}:
        os._exit(1)  # as was to be shown; the library would try again for half a minute
    raise socket.gaierror("no network in tests")
socket.socket.connect, socket.getaddrinfo = connect, look_up
from rvos_lightning.run.cli import main
text = ["--model.network.segmenter.weights", "facebook/sam2-hiera-large"]
text += ["--trainer.default_root_dir", {folder!r}]  # where a process that is shot leaves its lock
sys.argv = ["rvos", "fit", "-c", "configs/samwise.yaml", *text, *{more}]
main()
"""


@pytest.mark.parametrize("imports", ["", "import huggingface_hub, transformers, lightning"], ids=["user", "notebook"])
def test_nothing_reaches_the_network(root, tmp_path, imports):
    """A real process, in the order of imports a user has, with no variable set beforehand."""
    text = offline(root, tmp_path, imports, [])
    assert "CONNECTS" not in text and "LOOKS UP" not in text, text
    assert "segmenter.weights facebook/sam2-hiera-large" in text and "--hub" in text and "Traceback" not in text, text


def test_hub_lets_it(root, tmp_path):
    assert "LOOKS UP huggingface.co" in offline(root, tmp_path, "", ["--hub"])


def offline(root, home, imports, more) -> str:
    hidden = ("HF_", "TRANSFORMERS_", "http", "HTTP", "all_proxy", "ALL_PROXY")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)} | {"HF_HOME": str(home)}
    code = OFFLINE.format(imports=imports, more=more, folder=str(home / "runs"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=kept, timeout=300)
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_every_verb_has_a_page_of_help_at_once(capsys):
    from rvos_lightning.run.cli import VERBS, main

    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"usage: rvos {verb}") and len(lines) < 60 and max(map(len, lines)) <= 120
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("rvos_lightning ")
    with pytest.raises(SystemExit) as stop:
        main(["predct"])
    assert stop.value.code == 2 and "nearest   predict" in capsys.readouterr().err


def test_parts_lists_what_there_is_without_importing_it(root):
    code = "import sys; from rvos_lightning.run.cli import main; main(['parts']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    for name in (
        "Sam2",
        "hiera_b+",
        "CMTAdapter",
        "MeViS",
        "JAndF",
        "DiceFocal",
        "configs/samwise.yaml",
        "LastCheckpoint",
    ):
        assert name in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_options_of_a_part_are_flags_one_can_type(capsys):
    from rvos_lightning.run.cli import main

    assert main(["fit", "-c", "configs/tiny.yaml", "--model.network.adapter.help"]) == 0
    assert "--model.network.adapter FiLMAdapter" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit"], "no recipe: give one by -c"),
        (["score", "--predictions", "masks"], "no data set: give one by -c configs/data/NAME.yaml"),
        (["fit", "-c", "configs/tiny.yaml", "--objectives.mask", "NoSuchLoss"], "objectives.mask: no class NoSuchLoss"),
        (["fit", "-c", "configs/tiny.yaml", "--callbacks.bset.monitor", "val/j"], "callbacks has no 'bset'"),
        (
            "predict -c configs/tiny.yaml --data VideoFiles --data.expressions the brown horse".split(),
            "quotes: --data.expressions 'the brown horse'",
        ),
        ("fit -c configs/tiny.yaml --data MeViS --data.root null".split(), "MeViS needs root: give --data.root"),
        ("fit -c configs/tiny.yaml --trainer.accelerator cpu --data MeViS".split(), "MeViS needs root"),
        (["--completion", "fish"], "one of: bash, zsh"),
        (["--verson"], "nearest   --version"),
    ],
)
def test_slips_of_a_first_day_name_the_remedy(capsys, words, said):
    from rvos_lightning.run.cli import main

    assert said in refused(lambda *all_words: main(all_words), capsys, *words)


def test_parts_page_names_every_system_with_sizes(capsys):
    from rvos_lightning.run.cli import main

    offered = refused(lambda *words: main(words), capsys, "parts", "--sizes", "nosuch").partition("choose from")[2]
    main(["parts", "--help"])
    page = capsys.readouterr().out
    assert all(system in page for system in re.findall(r"\w+", offered))


def test_completion_is_a_script_that_bash_takes():
    from rvos_lightning.run.cli import VERBS
    from rvos_lightning.run.completion import script
    from rvos_lightning.run.usage import PAGES

    code = script("bash", VERBS, PAGES) + "\nCOMP_WORDS=(rvos pre); COMP_CWORD=1; _rvos; echo ${COMPREPLY[@]}\n"
    code += "COMP_WORDS=(rvos predict --skip); COMP_CWORD=2; _rvos; echo ${COMPREPLY[@]}\n"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["predict", "--skip_done"], done


def test_verbs_that_look_at_data_start_without_lightning(root, tmp_path):
    """In a process of its own; Lightning and torchmetrics take three times as long to import as torch."""
    code = (
        "import gc, sys; from rvos_lightning.run.cli import main; "
        "main(['sample', '--layout', 'mevis', '--out', 'set', '--videos', '1', '--frames', '2']); "
        "config = f'{sys.argv[1]}/configs/data/mevis.yaml'; "
        "main(['check', '-c', config, '--data.root', 'set']); "
        "words = ['score', '-c', config, '--data.root', 'set', '--predictions', 'set']; main(words); "
        "theirs = gc.get_freeze_count(); sys.argv[1:] = words; main(); "
        "print(theirs, gc.get_freeze_count() > 100_000, gc.isenabled()); "
        "print(sorted({'lightning', 'torchmetrics', 'torchvision', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    # a program that calls us keeps what it has; the command line sets its imports aside
    assert done.stdout.splitlines()[-2] == "0 True True", done.stdout + done.stderr
    assert "train: yes" in done.stdout and "refused: " in done.stderr


def test_an_overlay_that_the_recipe_would_replace_is_refused():
    from rvos_lightning.run.words import fault

    recipe, data = ["-c", "configs/samwise.yaml"], ["-c", "configs/data/mevis.yaml"]
    assert fault(["fit", *recipe, *data]) is None
    assert fault(["fit", "-c", "configs/trainer/bf16.yaml", *recipe]) is None  # says nothing that the recipe says
    assert "mevis.yaml stands before the recipe configs/samwise.yaml, which also gives data.class_path" in fault(
        ["fit", *data, *recipe]
    )


def test_a_key_twice_in_a_configuration_is_refused(tmp_path):
    from rvos_lightning.run.words import fault, network_of

    path = tmp_path / "twice.yaml"
    path.write_text("model:\n  window: 8\ntrainer: {max_steps: 3}\nmodel:\n  window: 9\n")
    assert "'model' stands in line 1 and again in line 4" in fault(["fit", "-c", "configs/tiny.yaml", "-c", str(path)])
    assert network_of(path) is None
    path.write_bytes(b"\xef\xbb\xbfmodel: &one\r\n  window: 8\r\nmore: {<<: *one, x: 1}\r\n")
    assert fault(["fit", "-c", str(path)]) is None


def test_the_home_folder_is_found_where_the_shell_leaves_it(tmp_path, monkeypatch):
    from rvos_lightning.run.values import prepare
    from rvos_lightning.run.words import at_home

    monkeypatch.setenv("HOME", "/home/me")
    words = [
        "predict",
        "-c=~/a.yaml",
        "--run=~/run",
        "~/b.ckpt",
        "--data.path",
        "~",
        "a~/c",
        "--x.expressions",
        "a =~/ b",
    ]
    changed = ["-c=/home/me/a.yaml", "--run=/home/me/run", "/home/me/b.ckpt"]
    assert at_home(words) == ["predict", *changed, *words[4:]]
    prepare([])
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(parser_mode="omegaconf+")
    parser.add_argument("--data", type=dict)
    assert parser.parse_string("data: {root: ~/mevis, list: [~/x], word: ~y}").data == {
        "root": "/home/me/mevis", "list": ["/home/me/x"], "word": "~y",
    }  # fmt: skip


def test_a_lone_sentence_is_a_list_of_one_however_it_is_given():
    from rvos_lightning.run.words import said_in_full

    said = said_in_full(["predict", "--data.expressions=the note: red, or blue", "--untrained"])
    assert said == ["predict", "--data.expressions", '["the note: red, or blue"]', "--untrained=true"]


def test_a_list_of_sentences_that_is_not_closed_is_no_sentence():
    from rvos_lightning.run.words import WordsError, said_in_full

    assert said_in_full(["predict", "--data.expressions", "[the dog, a cat]"])[-1] == "[the dog, a cat]"
    for value in ('["the dog", "a cat"', "[the red] box"):
        with pytest.raises(WordsError, match=r"a list of sentences that is none.*\n  expected  write"):
            said_in_full(["predict", "--data.expressions", value])


def test_a_reader_that_leaves_is_no_error(root):
    words = [python(), "-W", "ignore", "-m", "rvos_lightning", "parts"]
    pipe = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root, env=environment())
    pipe.stdout.close()
    assert pipe.stderr.read() == b"" and pipe.wait(60) == 141


def test_configuration_files_are_found_however_they_are_given():
    from rvos_lightning.run.words import config_files

    words = [
        "fit",
        "-c",
        "a.yaml",
        "-cb.yaml",
        "--config=c.yaml",
        "-c=d.yaml",
        "--config",
        "e.yaml",
        "--callbacks.x",
        "Y",
    ]
    assert config_files(words) == ["a.yaml", "b.yaml", "c.yaml", "d.yaml", "e.yaml"]

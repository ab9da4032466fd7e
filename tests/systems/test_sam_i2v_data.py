"""SAM-I2V on the layouts it is evaluated on, under every protocol; the sweep lists of its tables."""

import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from layouts import make_scene
from layouts import promptable as layouts
from layouts.referring import davis_tree
from sam_i2v_small import small

from rvos_lightning import metrics
from rvos_lightning.core.inference import segment_video
from rvos_lightning.core.optim import param_groups
from rvos_lightning.core.seams import Network
from rvos_lightning.data import DAVIS, ESD, LVVIS, SAV, PUMaVOS, SimulatedUser
from rvos_lightning.data.video_data import VideoData
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.weights import shipped
from rvos_lightning.systems.sam_i2v.temporal_integrator import TemporalIntegrator

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11
ROOT = Path(__file__).parents[2]
SWEEPS = ROOT / "slurm" / "sweeps"
LAYOUTS = {
    "sav": (layouts.sav_val, SAV, "val"),
    "pumavos": (layouts.pumavos, PUMaVOS, "val"),
    "lvvis": (layouts.lvvis, LVVIS, "val"),
    "esd": (layouts.esd, ESD, "test"),
    "davis": (lambda root, scene: davis_tree(root, scene, "Annotations"), DAVIS, "val"),
}


def evaluation_set(name: str, root: Path, user: SimulatedUser) -> tuple[VideoData, str]:
    make, module, split = LAYOUTS[name]
    return module(make(root, make_scene(time=9)), size=64, resize="squash", simulate_user=user), split


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("protocol", ["three_click", "box", "mask", "online", "offline"])
def test_protocols_on_layouts(name: str, protocol: str, tmp_path: Path) -> None:
    data, split = evaluation_set(name, tmp_path, SimulatedUser(protocol=protocol, rounds=2))
    metric = metrics.SAV() if name == "sav" else metrics.JAndF()
    network = small()
    for batch in data.evaluation_batches(split):
        assert batch.clip.expressions is None and len(batch.clip) == 2
        for window in segment_video(network, batch, window=100 if protocol == "offline" else 4):
            metric.update(window)
            if protocol == "mask" and 0 in window.clip.meta[0].positions:
                masks, truth = window.masks[:, 0], window.targets.masks[:, 0]
                assert float((masks == truth).float().mean()) > 0.95  # the given mask, through 32 cells and back
    score = float(metric.compute()["j_and_f"])
    assert 0 <= score <= 1


def lines(name: str) -> list[list[str]]:
    """The tasks of a sweep list."""
    text = (SWEEPS / f"{name}.txt").read_text()
    return [shlex.split(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def merged(run, capsys, *flags: str) -> dict:
    """The configuration a task runs with."""
    fixed = ("-c", "configs/paper/sam_i2v.yaml")
    with pytest.raises(SystemExit) as stop:
        run("fit", *fixed, *flags, "--print_config")
    out = capsys.readouterr()
    assert stop.value.code in (0, None), out.err
    return yaml.safe_load(out.out)


@pytest.mark.parametrize("flags", lines("sam_i2v_figure1"), ids=lambda flags: flags[1])
def test_every_image_sam_of_figure_1_fits_its_upgrader_and_its_groups(flags: list[str], run, capsys) -> None:
    model = merged(run, capsys, *flags)["model"]
    parts = model["network"]["init_args"]
    parts["segmenter"]["init_args"]["weights"] = None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Network)
    with torch.device("meta"):
        network = parser.instantiate(parser.parse_object({"network": model["network"]})).network
    assert tuple(network.segmenter.channels[-3:]) == network.adapter.channels
    groups = param_groups(
        network, model["lr_scale"], model["no_decay"], model["layer_decay"]
    )  # every pattern matches something
    assert {0.2 if "sam" in flags[1] else 0, 1.0} <= {round(group["lr_scale"], 6) for group in groups}


@pytest.mark.parametrize("flags", lines("sam_i2v_figure1_small"), ids=lambda flags: flags[1])
def test_every_small_image_sam_is_upgraded_from_weights_that_there_are_or_that_make_makes(flags: list[str]) -> None:
    variant, weights = flags[1], flags[3]
    sam = Sam(variant, occlusion=True, weights=weights if shipped(weights) else None)
    integrator = TemporalIntegrator(temporal_dim=24, frames=3).fit_to(sam)
    assert integrator.channels == sam.channels[-3:] and integrator.dim == sam.prompt_dim
    if not shipped(weights):
        made = subprocess.run(["make", "-nB", weights], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert made.count(f".variant {variant}") == 2 and f"/sam_stills_{variant[6:]} {weights}" in made


@pytest.mark.parametrize(("name", "task"), [("sam_i2v_pvs", 0), ("sam_i2v_pvs", 15), ("sam_i2v_semi_vos", 3)])
def test_protocol_sweeps_parse(name: str, task: int, run, capsys) -> None:
    config = merged(run, capsys, "-c", "configs/data/sav.yaml", *lines(name)[task])
    user = config["data"]["init_args"]["simulate_user"]["init_args"]
    expected = {"sam_i2v_pvs": ["online", "offline"][task // 8], "sam_i2v_semi_vos": "three_click"}[name]
    assert user["protocol"] == expected and user["oracle"] == (name == "sam_i2v_semi_vos")


def test_scaling_sweep_doubles_the_steps_of_48_hours() -> None:
    steps = [int(flags[1]) for flags in lines("sam_i2v_table4")]
    assert steps == [64800, 129600, 64800, 64800]

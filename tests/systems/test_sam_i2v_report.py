"""Parameters and multiply-accumulates of SAM-I2V against the supplement's tables."""

import pytest
import torch

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.parts.adapters.image_features import ImageFeatures
from rvos_lightning.parts.prompters.user import UserPrompter
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.systems.sam_i2v import cost, report
from rvos_lightning.systems.sam_i2v.prompt_memory import PromptMemory


@pytest.fixture(scope="module")
def rows() -> dict[str, report.Row]:
    return {row.name: row for row in report.rows()}


def test_parameters_are_the_released_ones(rows: dict[str, report.Row]) -> None:
    assert rows["total"].parameters + rows["total"].unused == 18_897_886
    for row in rows.values():
        if row.published_parameters and row.name != "upgrader":
            assert f"{(row.parameters + row.unused) / 1e6:.1f}" == row.published_parameters, row.name


def test_the_published_way_of_counting_gives_the_published_figures(rows: dict[str, report.Row]) -> None:
    for row in rows.values():
        if row.published and row.counted is not None:
            assert row.counted / 1e9 == pytest.approx(
                float(row.published), rel=0.05 if row.published == "0.9" else 0.01
            )
    assert rows["memory attention"].total / 1e9 == pytest.approx(289.6, rel=1e-3)
    assert rows["temporal feature integrator"].total < 37.5e9  # the released code, 5 frames


def test_baselines_have_the_published_sizes() -> None:
    """TA: 17.8 M, SA + TA: 18.7 M (supplement), with the classifier that the released trunk carries."""
    for width, published in ((0, "17.8"), (256, "18.7")):
        with torch.device("meta"):
            sam, memory = Sam("tiny_sam", occlusion=True, adapter_width=width), PromptMemory(hidden=2048, prompts=0)
            network = PromptedSegmenter(sam, ImageFeatures(), UserPrompter(), memory)
        total = report.count(network) + report.unused("image_encoder.trunk_image")
        assert f"{total / 1e6:.1f}" == published


def test_fused_attention_is_counted_apart() -> None:
    q = torch.empty(2, 3, 10, 4, device="meta")
    k = torch.empty(2, 3, 20, 4, device="meta")
    found = cost.measure(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, k) @ k.transpose(2, 3))
    assert found == cost.Cost(plain=2 * 3 * 10 * 20 * 4, attention=2 * 3 * 10 * 20 * 8)


def test_the_table_prints(rows: dict[str, report.Row]) -> None:
    text = report.table(list(rows.values()))
    assert all(name in text for name in rows) and "87.4" in text

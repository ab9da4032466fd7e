"""The Markdown that `measure.py` writes."""

from typing import Any

RECIPES = ["configs/paper/samwise_mevis.yaml", "configs/paper/sam_i2v.yaml", "configs/paper/sa2va_1b.yaml"]
"""Published recipes whose training step is compared with the forecast."""


def markdown(content: dict[str, Any]) -> str:
    """Tables of everything measured; ratios of ours against batch of one in the same precision."""
    lines = [f"{content['card']}, torch {content['torch']}; float32 with TF32 matrix products.", ""]
    lines += ["| system | workload | precision | flow | s | rate | peak GB | attention | against batch of one |"]
    lines += ["|" + " --- |" * 9]
    slow = {(r["system"], r["what"], r["mode"]): r for r in content["steps"] if r["flow"] == "batch of one"}
    for row in content["steps"]:
        other = slow.get((row["system"], row["what"], row["mode"])) if row["flow"] == "ours" else None
        lines.append("| " + " | ".join(_cells(row, other)) + " |")
    if content["strategies"]:
        lines += ["", "| strategy, one GPU | stopped and resumed against not stopped |", "| --- | --- |"]
        lines += [f"| {row['strategy']} | {row['result']} |" for row in content["strategies"]]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any], other: dict[str, Any] | None) -> list[str]:
    if "error" in row:
        return [row["system"], row["what"], row["mode"], row["flow"], row["error"].replace("|", "/"), "", "", "", ""]
    ratio = ""
    if other is not None and "seconds" in other:
        ratio = f"{other['seconds'] / row['seconds']:.2f}x"
        if "peak_gb" in row:
            ratio += f", memory {row['peak_gb'] / other['peak_gb']:.2f}x"
    elif "forecast" in row:
        ratio = row["forecast"]
    peak = f"{row['peak_gb']:.2f}" if "peak_gb" in row else ""
    share = f"{row['attention']:.0%}" if "attention" in row else ""
    rate = f"{row['per_second']:.3g} {row['unit']}"
    return [row["system"], row["what"], row["mode"], row["flow"], f"{row['seconds']:.3f}", rate, peak, share, ratio]

"""A run's losses and metrics over its steps, as one picture of small panels."""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

Curve = tuple[list[int], list[float]]

INK, TRAIN, EVAL, GRID = "#3c3c42", "#9db4d0", "#c2452d", "#e4e4e8"
COLUMNS = 4
PANEL = (3.0, 2.1)
"""Inches."""
SMOOTH = 40
"""About as many points as an averaged training curve is reduced to."""


def save_curves(metrics: str | Path, path: str | Path) -> None:
    """Draws the records of a `metrics.jsonl` into a PNG, which appears whole or not at all.

    A file without records draws nothing.
    """
    from PIL import Image

    lines = Path(metrics).read_text().splitlines() if Path(metrics).exists() else []
    if (picture := plot_curves([json.loads(line) for line in lines])) is None:
        return
    path = Path(path)
    temporary = path.with_name(f".{path.name}")
    Image.fromarray(picture).save(temporary, format="PNG")
    temporary.replace(path)


def plot_curves(records: Iterable[Mapping]) -> np.ndarray | None:
    """Records of `mtlora_jax.engine.log` as a picture uint8 `[H, W, 3]`; None without any.

    The total loss comes first, then a panel for each task's loss, then one for each metric of each task; metrics
    of single classes (`miou/cat`) are left out. Training is grey-blue, averaged where it is dense; evaluation red.
    """
    curves = _curves(records)
    if not curves:
        return None
    order = list(dict.fromkeys(name.partition("/")[0] for name in curves))
    names = sorted(curves, key=lambda name: (_rank(name), order.index(name.partition("/")[0])))
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), dpi=110, layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1)
        _panel(axes, name, curves[name])
        if i == 0:
            axes.legend(fontsize=7, frameon=False, labelcolor=INK)
        if i >= len(names) - columns:
            axes.set_xlabel("step", fontsize=7, color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    width, height = (round(side * figure.dpi) for side in figure.get_size_inches())
    pixels = np.frombuffer(buffer.getvalue(), np.uint8)
    return pixels.reshape(-1, width, 4)[:height, :, :3].copy()


def _curves(records: Iterable[Mapping]) -> dict[str, dict[str, Curve]]:
    """`{panel: {train, eval: (steps, values)}}`; both kinds of a loss share their panel `<task>/loss`."""
    curves: dict[str, dict[str, Curve]] = {}
    for record in records:
        if record["kind"] not in ("train", "eval"):
            continue
        for key, value in record.items():
            if key in ("step", "kind", "ids") or value is None or not math.isfinite(value):
                continue
            if record["kind"] == "train":
                key = "total/loss" if key == "loss" else "/".join(reversed(key.split("/")))
            if key.count("/") < 2:
                steps, values = curves.setdefault(key, {}).setdefault(record["kind"], ([], []))
                steps.append(record["step"])
                values.append(value)
    return curves


def _rank(name: str) -> int:
    """Which group a panel is in: the total, the losses, the metrics, whatever belongs to no task."""
    metric = name.partition("/")[2]
    return 0 if name == "total/loss" else 1 if metric == "loss" else 2 if metric else 3


def _panel(axes, name: str, curves: Mapping[str, Curve]) -> None:
    from matplotlib.ticker import MaxNLocator

    task, _, metric = name.partition("/")
    axes.set_title(f"{task}  {metric}".strip(), fontsize=9, color=INK, loc="left")
    if "train" in curves:
        steps, values = curves["train"]
        axes.plot(
            *_averaged(steps, values), color=TRAIN, lw=1.4, marker="o", ms=3 if len(steps) == 1 else 0, label="training"
        )
    if "eval" in curves:
        axes.plot(*curves["eval"], color=EVAL, lw=1.4, marker="o", ms=3, label="evaluation")
    axes.grid(color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7, colors=INK, length=0)
    if len(shown := {step for steps, _ in curves.values() for step in steps}) == 1:
        axes.set_xlim(min(shown) - 1, min(shown) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def _averaged(steps: Sequence[int], values: Sequence[float]) -> Curve:
    """Means over equal runs of points, so that a long noisy curve still shows its course."""
    width = max(1, len(values) // SMOOTH)
    cuts = range(0, len(values), width)
    return [steps[i : i + width][-1] for i in cuts], [float(np.mean(values[i : i + width])) for i in cuts]

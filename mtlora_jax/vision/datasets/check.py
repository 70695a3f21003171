"""Looking a data set over before it trains: every file read, figures per task, what is missing or broken, a picture."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtlora_jax.engine.tables import text_table
from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, write_json
from mtlora_jax.images import transforms
from mtlora_jax.images.panels import panel, save_png
from mtlora_jax.input.prefetch import Prefetcher
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.datasets.layout import Files, Layout, scan
from mtlora_jax.vision.datasets.sources import KINDS, label_values
from mtlora_jax.vision.tasks.task import VOID, Task

SPLITS = ("train", "val")
SHEET, CELL = 6, 160
"""Examples on a contact sheet, and pixels of their pictures."""
LISTED = 10
"""Problems that are printed; the report has all."""


def check(config: VisionConfig, out: Path, expect: str | None = None, workers: int = 2) -> None:
    """Reads every file that a config would train on or be scored by, prints what it finds, and writes it.

    Args:
      config: its data set has to be one of files; its tasks, and their classes, are what is read.
      out: gets `report.json` and a contact sheet of each split, `train.png` and `val.png`.
      expect: `pascal` or `nyud`, whose published figures to compare with.
      workers: processes that read.

    Raises:
      UserError: files are missing or broken, told after all have been read.
    """
    data, tasks = config.data, config.task_objects()
    if type(data) not in KINDS:
        raise UserError(f"check reads data sets of files; {type(data).__name__} is none")
    if expect is not None and expect not in EXPECTED:
        raise UserError(f"--expect {expect}: the figures known are those of {', '.join(EXPECTED)}")
    make_workdir(out)
    layout, values = KINDS[type(data)].layout(data), label_values(data, config)
    table, lines, report, problems = [], [], {}, []
    for split in SPLITS:
        files, found = check_split(data.root, layout, split, values, tuple(tasks), workers, data.resize_labels)
        table += rows(split, found)
        lines += histogram_lines(split, found, tasks)
        if expect is not None:
            lines += compare(EXPECTED[expect], split, found)
        report[split] = {name: as_json(summary) for name, summary in found.items()}
        problems += [
            f"{name}: {path} is missing" for name, s in found.items() for path in _serious(s.missing, name, data)
        ]
        problems += [line for s in found.values() for line in s.broken]
        if (sheet := contact_sheet(files, tasks)) is not None:
            save_png(out / f"{split}.png", sheet)
    write_json(out / "report.json", report)
    print(text_table(HEADER, table), *lines, *problems[:LISTED], f"wrote {out}", sep="\n")
    if problems:
        raise UserError(f"missing or broken files: {len(problems)}, the first of them: {problems[0]}")


def _serious(missing: list[str], name: str, data) -> list[str]:
    """Missing files that keep the data set from training: labels may be missing where gaps are allowed."""
    return [] if name != "image" and getattr(data, "gaps", False) else missing


@dataclass
class Summary:
    """What a split holds of one task, or of the images.

    Attributes:
      count: labels that could be read.
      sizes: `{(H, W): count}`.
      low, high: the range of values that are not void.
      void: share of void pixels.
      histogram: `{value: pixels}`, of classes and masks.
      missing, broken: files, and what is wrong with them.
    """

    count: int = 0
    sizes: Counter = field(default_factory=Counter)
    low: float = np.inf
    high: float = -np.inf
    void_pixels: int = 0
    pixels: int = 0
    histogram: Counter = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def void(self) -> float:
        return self.void_pixels / max(self.pixels, 1)

    def add(self, found: "Found") -> None:
        self.count += 1
        self.sizes[found.size] += 1
        self.low, self.high = min(self.low, found.low), max(self.high, found.high)
        self.void_pixels += found.void
        self.pixels += found.size[0] * found.size[1]
        self.histogram.update(found.histogram)


class Found(NamedTuple):
    """What one label holds."""

    size: tuple[int, int]
    low: float
    high: float
    void: int
    histogram: Mapping[int, int]


def look(task: str, label: np.ndarray) -> Found:
    """One image's or label's figures."""
    vectors = label.ndim == 3
    if task == "image":
        void = np.zeros(label.shape[:2], bool)
    elif vectors:
        void = ~label.any(-1) | (label == VOID).all(-1)
    else:
        void = (label == VOID) | ((label == 0) if task == "depth" else False)
    known = label[~void]
    low, high = (float(known.min()), float(known.max())) if known.size else (np.inf, -np.inf)
    counted = not vectors and label.dtype == np.uint8
    values, counts = np.unique(known, return_counts=True) if counted else ((), ())
    histogram = {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    return Found(label.shape[:2], low, high, int(void.sum()), histogram)


@dataclass(frozen=True)
class Look:
    """`(i) -> {"image" or task: Found, or the error in words}` of one example; sent to worker processes."""

    files: Files

    def __call__(self, index: int) -> dict[str, Found | str]:
        try:
            image = self.files.image(index)
        except UserError as error:
            return {"image": str(error)}
        found: dict[str, Found | str] = {"image": look("image", image)}
        for task in self.files.entries[index].labels:
            try:
                found[task] = look(task, self.files.label(index, task, image.shape[:2]))
            except UserError as error:
                found[task] = str(error)
        return found


def check_split(
    root: str,
    layout: Layout,
    split: str,
    classes: Mapping[str, int],
    tasks: Sequence[str],
    workers: int = 0,
    resize: bool = False,
) -> tuple[Files, dict[str, Summary]]:
    """Reads every file of a split.

    Returns:
      The examples whose image is there, and a summary for `image` and every task.

    Raises:
      UserError: there is no such root or split.
    """
    from tqdm import tqdm

    entries, lacking = scan(root, layout, split, tasks)
    summaries = {name: Summary(missing=[str(path) for path in lacking.get(name, ())]) for name in ("image", *tasks)}
    files = Files(layout, tuple(entries), classes, resize)
    with Prefetcher(Look(files), workers) as looks:
        for found in tqdm(looks.run(range(len(files))), split, len(files), unit=" images", leave=False):
            for name, value in found.items():
                if isinstance(value, str):
                    summaries[name].broken.append(value)
                else:
                    summaries[name].add(value)
    return files, summaries


def rows(split: str, summaries: Mapping[str, Summary]) -> list[tuple]:
    """The table's rows of one split."""
    return [
        (
            split,
            name,
            s.count,
            len(s.missing),
            len(s.broken),
            _sizes(s.sizes),
            "" if s.count == 0 or s.low > s.high else f"{s.low:.4g} .. {s.high:.4g}",
            f"{100 * s.void:.1f} %" if name != "image" else "",
        )
        for name, s in summaries.items()
    ]


HEADER = ("split", "what", "read", "missing", "broken", "rows x columns", "values", "void")


def _sizes(sizes: Counter) -> str:
    if len(sizes) <= 2:
        return ", ".join(f"{h}x{w}" for h, w in sizes)
    heights, widths = zip(*sizes, strict=True)
    return f"{min(heights)}..{max(heights)} x {min(widths)}..{max(widths)} ({len(sizes)} sizes)"


def histogram_lines(split: str, summaries: Mapping[str, Summary], tasks: Mapping[str, Task]) -> list[str]:
    """`split task: class share, ...` for every task with classes, the absent ones at the end."""
    lines = []
    for name, s in summaries.items():
        if name not in tasks or not s.histogram:
            continue
        total = sum(s.histogram.values())
        shares = ", ".join(f"{value}: {100 * n / total:.2f} %" for value, n in sorted(s.histogram.items()))
        absent = [str(c) for c in range(max(tasks[name].channels, 2)) if c not in s.histogram]
        lines.append(f"{split} {name}: {shares}" + (f"; absent: {', '.join(absent)}" if absent else ""))
        if tasks[name].channels == 1 and not s.histogram[1] and s.void_pixels:
            lines.append(
                f"{split} {name}: never 1, but {VOID}, which is void; for masks of 0 and 255: --data.masks=grey"
            )
    return lines


def contact_sheet(files: Files, tasks: Mapping[str, Task]) -> np.ndarray | None:
    """The first examples that can be read, a row each: the image, and every label as it is drawn; None without any."""
    sheet, names = [], []
    for index, entry in enumerate(files.entries):
        if len(sheet) == SHEET:
            break
        try:
            example = transforms.evaluate(files[index], CELL)
        except UserError:
            continue
        labels = example["labels"]
        sheet.append([example["image"], *(t.paint(labels[n]) if n in labels else None for n, t in tasks.items())])
        names.append(entry.id)
    return None if not sheet else panel(sheet, columns=["image", *tasks], names=names, size=CELL)


class Expected(NamedTuple):
    """A published data set's figures. Nobody here has had the data: sizes are recalled, value ranges follow from the
    reference's code."""

    lengths: Mapping[str, int]
    values: Mapping[str, tuple[float, float]]


EXPECTED = {
    "pascal": Expected(
        {"train": 4998, "val": 5105},
        {"semseg": (0, 20), "human_parts": (0, 6), "saliency": (0, 1), "edges": (0, 1), "normals": (-1, 1)},
    ),
    "nyud": Expected(
        {"train": 795, "val": 654},
        {"semseg": (0, 39), "edges": (0, 1), "normals": (-1, 1)},
    ),
}


def compare(expected: Expected, split: str, summaries: Mapping[str, Summary]) -> list[str]:
    """What agrees and what does not, a line each; lines that do not begin with `differs`."""
    images = summaries["image"]
    there = images.count + len(images.missing) + len(images.broken)
    verdict = "agrees" if there == expected.lengths[split] else "differs"
    lines = [f"{verdict}: {split} names {there} images, published {expected.lengths[split]} (recalled, never checked)"]
    for name, s in summaries.items():
        if name in expected.values and s.count and s.low <= s.high:
            low, high = expected.values[name]
            verdict = "agrees" if low <= s.low and s.high <= high else "differs"
            lines.append(f"{verdict}: {split} {name} in {s.low:.4g} .. {s.high:.4g}, published {low} .. {high}")
    return lines


def as_json(summary: Summary) -> dict[str, Any]:
    """A summary for `report.json`."""
    return {
        "read": summary.count,
        "sizes": {f"{h}x{w}": n for (h, w), n in summary.sizes.most_common()},
        "range": [summary.low, summary.high] if summary.low <= summary.high else None,
        "void": round(summary.void, 6),
        "histogram": {str(value): n for value, n in sorted(summary.histogram.items())},
        "missing": summary.missing,
        "broken": summary.broken,
    }

"""Inspects a data set before it trains: reads every file, says what is missing or broken, draws a contact sheet."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, write_json
from mtlora_jax.images import transforms
from mtlora_jax.images.panels import panel, save_png
from mtlora_jax.input.prefetch import Prefetcher
from mtlora_jax.listing import listed, text_table
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.datasets.data import Data, DiskData
from mtlora_jax.vision.datasets.examples import NativeExamples, rules
from mtlora_jax.vision.datasets.files import Files, scan
from mtlora_jax.vision.datasets.folder import FolderData
from mtlora_jax.vision.datasets.mixture import MixtureData
from mtlora_jax.vision.datasets.prepared import Prepared
from mtlora_jax.vision.tasks.task import Task

SPLITS = ("train", "val")
SHEET, CELL = 6, 160
"""Examples on a contact sheet, and pixels of their pictures."""
LISTED = 10
"""Problems that are printed; the report has all."""


def check(config: VisionConfig, out: Path, expect: str | None = None, workers: int = 2) -> None:
    """Reads everything that a config would train on or be scored by, prints what it finds, and writes it.

    Args:
      config: its data set, the sets of its mixture each for itself, and its tasks are what is read.
      out: gets `report.json` and a contact sheet of each split, `train.png` and `val.png`.
      expect: `pascal` or `nyud`, whose published numbers to compare with.
      workers: processes that read.

    Raises:
      UserError: files are missing or broken, told after all have been read.
    """
    if expect is not None and expect not in EXPECTED:
        raise UserError(f"--expect {expect}: the numbers known are those of {', '.join(EXPECTED)}")
    make_workdir(out)
    mixed = isinstance(config.data, MixtureData)
    parts = {f"{name}_": of for name, of in config.data.sources.items()} if mixed else {"": config.data}
    table, lines, report, problems, written, seen = [], [], {}, [], [out / "report.json"], {}
    for prefix, data in parts.items():
        tasks = data.labelled(config.make_tasks())
        for split in SPLITS:
            name = f"{prefix}{split}"
            examples, found = check_split(data, split, tasks, config.backbone.image_size, workers)
            table += rows(name, found)
            lines += histogram_lines(name, found, tasks)
            if expect is not None:
                lines += compare(EXPECTED[expect], split, found)
            # Other sets number their examples from 0 in every split.
            named = isinstance(examples, Files | Prepared)
            seen[name] = [examples.name(i) for i in range(len(examples))] if named else []
            report[name] = {what: as_json(summary) for what, summary in found.items()}
            for what, summary in found.items():
                if what == "image" or not gaps_allowed(data):
                    problems += [f"{what}: {path} is missing" for path in summary.missing]
                problems += summary.broken
            if (sheet := contact_sheet(examples, tasks)) is not None:
                written.append(out / f"{name}.png")
                save_png(written[-1], sheet)
        lines += repeated({split: seen[f"{prefix}{split}"] for split in SPLITS}, prefix)
    write_json(out / "report.json", report)
    print(text_table(HEADER, table), *lines, *problems[:LISTED], f"wrote {listed(map(str, written))}", sep="\n")
    if problems:
        raise UserError(f"missing or broken files: {len(problems)}, the first of them: {problems[0]}")


def repeated(names: Mapping[str, Sequence[str]], prefix: str = "") -> list[str]:
    """A line for every split that names an image twice, and one for images of both splits.

    Args:
      names: of the images of each split.
    """
    lines = []
    for split, of in names.items():
        if twice := [name for name, count in Counter(of).items() if count > 1]:
            lines.append(f"{prefix}{split} names {len(twice)} images more than once: {listed(twice)}")
    if both := [name for name in dict.fromkeys(names[SPLITS[0]]) if name in set(names[SPLITS[1]])]:
        lines.append(f"{len(both)} images are in both {' and '.join(prefix + s for s in SPLITS)}: {listed(both)}")
    return lines


def gaps_allowed(data: Data) -> bool:
    """Whether an image may lack labels."""
    return isinstance(data, FolderData) and data.gaps


@dataclass
class Summary:
    """What a split holds of one task, or of the images.

    Attributes:
      count: how many could be read.
      sizes: `{(H, W): count}`.
      low, high: the range of values that are known.
      void_pixels, pixels: pixels without a known value, and all.
      histogram: `{value: pixels}`, of classes and masks.
      missing: files that are not there.
      broken: lines that say what is wrong with a file.
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


def inspect(label: np.ndarray, task: Task | None = None) -> Found:
    """The numbers of one label, or of an image."""
    void = np.zeros(label.shape[:2], bool) if task is None else ~task.transform.where_known(label)
    known = label[~void]
    low, high = (float(known.min()), float(known.max())) if known.size else (np.inf, -np.inf)
    counted = task is not None and task.values is not None
    values, counts = np.unique(known, return_counts=True) if counted else ((), ())
    histogram = {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    return Found(label.shape[:2], low, high, int(void.sum()), histogram)


@dataclass(frozen=True)
class Inspect:
    """`(i) -> {"image" or task: Found, or the error in words}` of one example; sent to worker processes."""

    examples: NativeExamples
    tasks: Mapping[str, Task]

    def __call__(self, index: int) -> dict[str, Found | str]:
        if isinstance(self.examples, Files):
            return self._files(self.examples, index)
        try:
            example = self.examples[index]
        except UserError as error:
            return {"image": str(error)}
        labels = {name: inspect(label, self.tasks[name]) for name, label in example["labels"].items()}
        return {"image": inspect(example["image"]), **labels}

    def _files(self, files: Files, index: int) -> dict[str, Found | str]:
        """The same file by file, so that one broken label hides no other."""
        try:
            image = files.image(index)
        except UserError as error:
            return {"image": str(error)}
        found: dict[str, Found | str] = {"image": inspect(image)}
        for name in files.entries[index].labels:
            try:
                found[name] = inspect(files.label(index, name, image.shape[:2]), self.tasks[name])
            except UserError as error:
                found[name] = str(error)
        return found


def check_split(
    data: Data, split: str, tasks: Mapping[str, Task], size: int, workers: int = 0
) -> tuple[NativeExamples, dict[str, Summary]]:
    """Reads everything of a split.

    Args:
      size: the network's, for data sets that have no size of their own.

    Returns:
      The examples whose image is there, and a summary for `image` and every task.

    Raises:
      UserError: there is no such root or split.
    """
    from tqdm import tqdm

    lacking: dict[str, list[Path]] = {}
    if isinstance(data, DiskData) and data.root:
        layout = data.layout(tasks)
        entries, lacking = scan(data.root, layout, split, tasks)
        examples: NativeExamples = Files(layout, tuple(entries), tasks, data.resize_labels)
    else:
        examples = data.native(split, tasks, size)
    summaries = {name: Summary(missing=[str(path) for path in lacking.get(name, ())]) for name in ("image", *tasks)}
    with Prefetcher(Inspect(examples, tasks), workers) as inspected:
        for found in tqdm(
            inspected.run(range(len(examples))), split, len(examples), unit=" images", leave=False, disable=None
        ):
            for name, value in found.items():
                if isinstance(value, str):
                    summaries[name].broken.append(value)
                else:
                    summaries[name].add(value)
    return examples, summaries


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
    for name, task in tasks.items():
        if (s := summaries[name]).count and (words := task.lacks(s.pixels - s.void_pixels, s.histogram[1])):
            lines.append(f"{split} {name}: {words}")
    return lines


def contact_sheet(examples: NativeExamples, tasks: Mapping[str, Task]) -> np.ndarray | None:
    """The first examples that can be read, a row each: the image and its labels, painted; None without any."""
    sheet, names = [], []
    for index in range(len(examples)):
        if len(sheet) == SHEET:
            break
        try:
            example = transforms.evaluate(examples[index], rules(tasks), CELL)
        except UserError:
            continue
        labels = example["labels"]
        sheet.append([example["image"], *(t.paint(labels[n]) if n in labels else None for n, t in tasks.items())])
        names.append(examples.name(index))
    return None if not sheet else panel(sheet, columns=["image", *tasks], names=names, size=CELL)


class Expected(NamedTuple):
    """A published data set's numbers. They were never compared with the data itself: sizes are recalled, value ranges
    follow from the reference's code."""

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

"""Inspects text rows before they train: every row encoded, numbers of every task, what the cutoff takes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, write_json
from mtlora_jax.language.encode import OUTCOMES, Truncation, encode
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES, Template
from mtlora_jax.language.tokenizer import Tokenizer
from mtlora_jax.listing import text_table
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.datasets import commonsense_qa
from mtlora_jax.text.datasets.commonsense import SIZES, UNCHECKED
from mtlora_jax.text.examples import open_rows, tokenizer_of, unread_lines

QUANTILES = (0.5, 0.9, 0.99, 1.0)
LISTED = 8
"""Answers of a task that are printed; the report has all."""
UNLIMITED = 1 << 30


@dataclass
class Summary:
    """What there is of one task.

    Attributes:
      lengths: tokens of every row that nothing was cut from, the end of text included.
      outcomes: `{outcome: rows}`, what the cutoff does to them.
      answers: `{answer: rows}`.
      choices: rows that say what they may be answered with, which scoring by likelihood needs.
    """

    lengths: list[int] = field(default_factory=list)
    outcomes: Counter = field(default_factory=Counter)
    answers: Counter = field(default_factory=Counter)
    choices: int = 0

    @property
    def rows(self) -> int:
        return self.outcomes.total()

    def quantiles(self) -> list[int]:
        """Lengths that `QUANTILES` of the rows do not exceed; zeros without rows."""
        lengths = self.lengths or [0]
        return np.quantile(lengths, QUANTILES, method="inverted_cdf").astype(int).tolist()


def check(config: TextConfig, out: Path, expect: str | None = None, workers: int = 0) -> None:
    """Encodes every row of both splits, prints numbers of every task, and writes them to `report.json`.

    Args:
      expect: `commonsense`, whose published row counts to compare with.
      workers: ignored; rows are encoded in this process.

    Raises:
      UserError: a file is missing or broken, or a task has no rows.
    """
    if expect not in (None, "commonsense"):
        raise UserError(f"--expect {expect}: the numbers known are those of commonsense")
    make_workdir(out)
    tokenizer, template, report = tokenizer_of(config), TEMPLATES[config.template], {}
    opened = {split: open_rows(config, split) for split in ("train", "val")}
    for split, rows in opened.items():
        found = summaries(rows, tokenizer, template, config.cutoff, config.truncation)
        print(f"{split}: {text(found, config.cutoff)}")
        for line in (*unread_lines(rows, config.make_tasks(), split), *(compare(found, split) if expect else ())):
            print(line)
        report[split] = as_json(found)
    for line in repeated(opened):
        print(line)
    write_json(out / "report.json", report)
    print(f"wrote {out / 'report.json'}")


def repeated(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """A line for every task and split with rows that ask the same and answer the same more than once, and for every
    task whose held-out rows are trained on."""
    lines = []
    seen = {
        split: Counter((row.task, row.instruction, row.input, row.output) for row in rows)
        for split, rows in splits.items()
    }
    for split, counts in seen.items():
        for task, count in Counter(key[0] for key, n in counts.items() if n > 1).items():
            lines.append(f"{split} {task}: {count} rows are there more than once")
    train, val = (set(counts) for counts in seen.values())
    for task, count in Counter(key[0] for key in val & train).items():
        lines.append(f"{task}: {count} rows are in both {' and '.join(splits)}")
    return lines


def summaries(
    rows: Iterable[Row], tokenizer: Tokenizer, template: Template, cutoff: int, truncation: Truncation = "keep_answer"
) -> dict[str, Summary]:
    """A summary of every task, in the order in which the tasks first occur.

    Args:
      cutoff, truncation: see `text.encode`; nothing is cut from the lengths told.
    """
    found: dict[str, Summary] = {}
    for row in rows:
        summary = found.setdefault(row.task, Summary())
        whole = encode(row, tokenizer, template, UNLIMITED, truncation)
        kept = whole
        if whole is not None:
            summary.lengths.append(len(whole.tokens))
            if len(whole.tokens) > cutoff:
                kept = encode(row, tokenizer, template, cutoff, truncation)
        summary.outcomes["dropped" if kept is None else kept.outcome] += 1
        summary.answers[row.answer] += 1
        summary.choices += bool(row.options)
    return found


def text(found: Mapping[str, Summary], cutoff: int) -> str:
    """What `summaries` found, as plain text: a table, then the answers of each task."""
    header = ("task", "rows", "options", *(f"{100 * q:g} %" for q in QUANTILES), *OUTCOMES)
    table = [
        (task, s.rows, s.choices, *s.quantiles(), *(s.outcomes[outcome] for outcome in OUTCOMES))
        for task, s in found.items()
    ]
    lines = [f"lengths in tokens by quantile, and what the cutoff of {cutoff} takes:", text_table(header, table)]
    for task, s in found.items():
        listed = [f"{answer!r} {100 * n / s.rows:.1f} %" for answer, n in s.answers.most_common(LISTED)]
        more = [f"{len(s.answers) - LISTED} more"] if len(s.answers) > LISTED else []
        lines.append(f"{task} answers: {', '.join(listed + more)}")
    return "\n".join(lines)


def as_json(found: Mapping[str, Summary]) -> dict[str, Any]:
    """What `summaries` found, for `report.json`."""
    return {
        task: {
            "rows": s.rows,
            "options": s.choices,
            "lengths": {f"{q:g}": length for q, length in zip(QUANTILES, s.quantiles(), strict=True)},
            "cutoff": {outcome: s.outcomes[outcome] for outcome in OUTCOMES},
            "answers": dict(s.answers.most_common()),
        }
        for task, s in found.items()
    }


def compare(found: Mapping[str, Summary], split: str) -> list[str]:
    """Rows of the commonsense sets against the published counts, a line each; `val` stands for their test files."""
    lines, sizes = [], {**SIZES, commonsense_qa.TASK: commonsense_qa.SIZES}
    for task, s in found.items():
        if task in sizes:
            published = sizes[task][0 if split == "train" else 1]
            name = f"{task} {'train' if split == 'train' else 'test'}"
            verdict = "agrees" if s.rows == published else "differs"
            doubt = " (recalled, never checked)" if name in UNCHECKED or task == commonsense_qa.TASK else ""
            lines.append(f"{verdict}: {name} has {s.rows} rows, published {published}{doubt}")
    return lines

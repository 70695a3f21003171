"""Metrics of predicted against true answers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

NEAR = 1e-3
"""How far a number may be from the true one, as LLM-Adapters compares them."""


def same(a: str, b: str) -> bool:
    """Whether two texts are one number: `18`, `18.0` and `1,800` without its comma are numbers."""
    try:
        return abs(float(a.replace(",", "")) - float(b.replace(",", ""))) <= NEAR
    except ValueError:
        return False


def accuracy(predicted: Sequence[str], true: Sequence[str], answers: Sequence[str]) -> float:
    """The share of answers that are right; without words to answer with they are numbers, and compare as such."""
    right = [p == t or (not answers and same(p, t)) for p, t in zip(predicted, true, strict=True)]
    return float(np.mean(right)) if true else 0.0


def f1(predicted: Sequence[str], true: Sequence[str], answers: Sequence[str]) -> float:
    """Of the last answer, which is the positive one; 0 where neither side ever gives it."""
    both = sum(p == t == answers[-1] for p, t in zip(predicted, true, strict=True))
    either = list(predicted).count(answers[-1]) + list(true).count(answers[-1])
    return 2 * both / either if either else 0.0


def matthews(predicted: Sequence[str], true: Sequence[str], answers: Sequence[str]) -> float:
    """Of two or more answers; 0 where one side always says the same."""
    kinds = {kind: i for i, kind in enumerate(dict.fromkeys([*true, *predicted]))}
    counts = np.zeros((len(kinds), len(kinds)))
    for p, t in zip(predicted, true, strict=True):
        counts[kinds[t], kinds[p]] += 1
    n, right = counts.sum(), np.trace(counts)
    t, p = counts.sum(1), counts.sum(0)
    variance = (n**2 - p @ p) * (n**2 - t @ t)
    return float((right * n - t @ p) / np.sqrt(variance)) if variance > 0 else 0.0


def _numbers(values: Sequence[str]) -> np.ndarray:
    """Numbers, with 0 for what is not one."""

    def number(text: str) -> float:
        try:
            return float(text.replace(",", ""))
        except ValueError:
            return 0.0

    return np.array([number(value) for value in values])


def pearson(predicted: Sequence[str], true: Sequence[str], answers: Sequence[str]) -> float:
    """Correlation of numbers; what is not a number counts as 0, and a constant side correlates with nothing."""
    p, t = _numbers(predicted), _numbers(true)
    return float(np.corrcoef(p, t)[0, 1]) if len(p) and p.std() > 0 and t.std() > 0 else 0.0


def spearman(predicted: Sequence[str], true: Sequence[str], answers: Sequence[str]) -> float:
    """Correlation of ranks, equal numbers sharing theirs."""
    from scipy.stats import rankdata

    p, t = (rankdata(_numbers(side)) for side in (predicted, true))
    return float(np.corrcoef(p, t)[0, 1]) if len(p) and p.std() > 0 and t.std() > 0 else 0.0


METRICS: Mapping[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""By name: `(predicted, true, answers) -> metric`, higher is better."""

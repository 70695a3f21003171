"""Captions compared by n-grams: CIDEr-D (Vedantam et al., CVPR 2015, section 5) and BLEU (Papineni et al., ACL 2002).

The library that the field uses for them, pycocoevalcap, is a package of a hundred megabytes of Java programs; these are
its numbers. Its tokenizer is one of those programs, the Penn Treebank's: what captions hold of it is here.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

N = 4
SIGMA = 6.0
"""Words of difference in length at which CIDEr-D's penalty has one standard deviation."""
Gram = tuple[str, ...]

BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
DROPPED = {*"'`.?!,:-;", "''", "``", "--", "..."}
"""What does not count as a word. The published list has brackets in capital letters; tokens are in small ones, and so
brackets stay."""
TOKEN = re.compile(
    r"""
    (?:[a-z]\.){2,}                                    # u.s.
  | \$?\d+(?:[.,:/]\d+)*(?:-?(?:st|nd|rd|th|s)\b)?     # 3.5, 10:30, 1,000, 2nd
  | (?:can)(?=not\b)
  | \w+(?=n't\b)|n't\b                                 # is n't
  | o'clock|\w+(?:-\w+)+|\w+                           # o'clock, t-shirt, dog
  | '(?:s|m|d|ll|re|ve)\b                              # dog 's
  | \.\.\.|--|``|''|\S
    """,
    re.VERBOSE,
)


def tokens(text: str) -> list[str]:
    """A caption's words in small letters, without punctuation."""
    found = (BRACKETS.get(token, token) for token in TOKEN.findall(text.lower()))
    return [token for token in found if token not in DROPPED]


def grams(words: Sequence[str]) -> Counter[Gram]:
    """All n-grams up to `N`, counted."""
    return Counter(tuple(words[i : i + n]) for n in range(1, N + 1) for i in range(len(words) - n + 1))


class Frequencies(NamedTuple):
    """In how many pictures' references an n-gram occurs, and the logarithm of how many pictures there are."""

    pictures: Mapping[Gram, int]
    log_count: float


def frequencies(references: Sequence[Sequence[str]]) -> Frequencies:
    """Of a set of pictures, each with its references."""
    found: Counter[Gram] = Counter()
    for captions in references:
        found.update({gram for caption in captions for gram in grams(tokens(caption))})
    return Frequencies(found, float(np.log(len(references))) if references else 0.0)


def cider(prediction: str, references: Sequence[str], known: Frequencies) -> float:
    """CIDEr-D of a caption, 0 to 10: the cosine of n-grams weighted by their rarity, the prediction's clipped to the
    reference's, a mean over references and lengths of n-gram.
    """
    mine, length = _weighted(prediction, known)
    score = np.zeros(N)
    for reference in references:
        theirs, their_length = _weighted(reference, known)
        penalty = np.exp(-((length - their_length) ** 2) / (2 * SIGMA**2))
        for n in range(N):
            dot = sum(min(mine[n][gram], weight) * weight for gram, weight in theirs[n].items() if gram in mine[n])
            norms = _norm(mine[n]) * _norm(theirs[n])
            score[n] += penalty * (dot / norms if norms else dot)
    return float(score.mean() / max(len(references), 1) * 10)


def _weighted(caption: str, known: Frequencies) -> tuple[list[dict[Gram, float]], int]:
    """Counts times inverse document frequencies, by length of n-gram; and how many pairs of words there are, which the
    published code takes for the length."""
    weights: list[dict[Gram, float]] = [{} for _ in range(N)]
    length = 0
    for gram, count in grams(tokens(caption)).items():
        rarity = known.log_count - np.log(max(1.0, known.pictures.get(gram, 0)))
        weights[len(gram) - 1][gram] = count * rarity
        length += count * (len(gram) == 2)
    return weights, length


def _norm(weights: Mapping[Gram, float]) -> float:
    return float(np.sqrt(sum(weight**2 for weight in weights.values())))


def bleu_statistics(prediction: str, references: Sequence[str]) -> np.ndarray:
    """`[2 N + 2]`, which add up over captions: n-grams that match, n-grams there are, both by length; the prediction's
    length and that of the reference nearest to it."""
    words = tokens(prediction)
    own, theirs = grams(words), [grams(tokens(reference)) for reference in references]
    matches, totals = np.zeros(N), np.zeros(N)
    for gram, count in own.items():
        matches[len(gram) - 1] += min(count, max((of[gram] for of in theirs), default=0))
        totals[len(gram) - 1] += count
    lengths = [len(tokens(reference)) for reference in references]
    nearest = min(lengths, key=lambda length: (abs(length - len(words)), length), default=0)
    return np.array([*matches, *totals, len(words), nearest])


def bleu(sums: np.ndarray) -> float:
    """BLEU-4 of summed statistics, 0 to 1: the geometric mean of precisions times the penalty for brevity."""
    matches, totals, (length, reference) = sums[:N], sums[N : 2 * N], sums[2 * N :]
    if not matches.all():
        return 0.0
    return float(np.exp(np.log(matches / totals).mean() + min(0.0, 1 - reference / length)))

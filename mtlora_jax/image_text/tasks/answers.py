"""VQA's soft accuracy and the normalisation that goes before it, as the official script computes them (Antol et al.,
ICCV 2015, section 3), its slips included: other scores could not be compared with published ones.
"""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = dict(zip(NUMBERS, ("0", *map(str, range(11))), strict=True))
ARTICLES = {"a", "an", "the"}
WORDS = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "I'd've",
    "I'm",
    "I've",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]


def _without_one(word: str) -> list[str]:
    """A word without one of its apostrophes, in all ways."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


# The script's table has the last entry the wrong way round.
CONTRACTIONS = {wrong: word for word in WORDS for wrong in _without_one(word)} | {"somebody'd": "somebodyd"}
"""Words that lack an apostrophe."""

COMMA = re.compile(r"\d,\d")
PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")
"""Mistyped there, too: the look-behind is none, so that only what follows a period keeps it."""
MOST_PERIODS = 32
"""A flag stands there in the place of a count."""


def without_punctuation(text: str) -> str:
    """Punctuation taken out where a blank is beside it, or anywhere in a text with a comma between digits, and made a
    blank elsewhere; periods that no digit follows go."""
    out, comma = text, COMMA.search(text) is not None
    for mark in PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside or comma else " ")
    return PERIOD.sub("", out, count=MOST_PERIODS)


def normalised(text: str) -> str:
    """A prediction as it is compared: small letters, digits for numbers up to ten, no articles, apostrophes."""
    text = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The mean over annotators of min(1, how many of the other ones gave the prediction, over 3).

    Annotators' answers lose punctuation alone, and only where they differ: a number in letters is never matched.
    """
    prediction = normalised(prediction)
    if len(set(answers)) > 1:
        answers = [without_punctuation(answer) for answer in answers]
    same = sum(answer == prediction for answer in answers)
    return sum(min(1.0, (same - (answer == prediction)) / 3) for answer in answers) / max(len(answers), 1)

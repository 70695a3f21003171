"""JSON files of questions, as the published sets have them: records with fields that are there and of their type."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json

Fields = Mapping[str, type | tuple[type, ...]]


def records(path: Path, fields: Fields) -> list[dict[str, Any]]:
    """The records of a JSON list.

    Args:
      fields: what every record has, and of which type.

    Raises:
      UserError: the file is missing, is not of a list, or a record lacks a field; the message names file and record.
    """
    found = read_json(path)
    if not isinstance(found, list):
        raise UserError(f"{path} should hold a list of records, and holds a {type(found).__name__}")
    check_records(found, fields, path)
    return found


def check_records(found: list, fields: Fields, where: Path | str) -> None:
    """Raises UserError for the first record that is none, or lacks a field."""
    for number, record in enumerate(found):
        if not isinstance(record, dict):
            raise UserError(f"{where}, record {number} is not an object")
        for name, kind in fields.items():
            if not isinstance(record.get(name), kind):
                kinds = kind if isinstance(kind, tuple) else (kind,)
                wanted = " or ".join({"str": "a text", "int": "a number"}.get(k.__name__, k.__name__) for k in kinds)
                raise UserError(f"{where}, record {number}: {name} should be {wanted}, and is {record.get(name)!r}")


def scores(label: Mapping[str, Any], where: str) -> dict[str, float]:
    """Answers with their scores. Raises UserError for a score that is not a number from 0 to 1."""
    for answer, score in label.items():
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise UserError(f"{where}: the answer {answer!r} has the score {score!r}, a number from 0 to 1 is needed")
    return {answer: float(score) for answer, score in label.items() if score > 0}

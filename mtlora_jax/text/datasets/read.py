"""Rows from JSON files, in the forms people have them in.

A file is a JSON list, or JSON lines. A record is one of

    {"instruction", "input", "output", "answer"}     as LLM-Adapters writes them
    {"prompt", "completion"}                         used as they stand
    {"messages": [{"role", "content"}, ...]}         a row for each turn of the assistant
    {"text_a", "text_b", "label"}                    a pair to classify, or to give a number

and says its task by `task` (a name) or `task_id` (a place in the run's tasks). The 170k file as most people hold it
says neither: then the instruction's template tells, and where several sets share one, the sets' own files. A row's
options are those that its instruction ends with (`Answer format: true/false`).
"""

import difflib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_text
from mtlora_jax.language.chat import plain
from mtlora_jax.language.rows import Row
from mtlora_jax.listing import listed

Ambiguous = Literal["error", "drop"]

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Please answer the following question with true or false, question:": ("boolq",),
    "Please choose the correct solution to the question:": ("piqa",),
    "Please choose the correct ending to complete the given sentence:": ("hellaswag",),
    "Please choose the correct answer to fill in the blank to complete the given sentence:": ("winogrande",),
    "Please choose the correct answer to the question:": ("social_i_qa", "ARC-Challenge", "ARC-Easy", "openbookqa"),
}
"""How instructions of the commonsense sets begin, and which sets begin so."""

CHATS = ("conversations", "conversation", "data", "dialog", "dialogue", "chat")
"""What other tools call `messages`."""
FORMAT = re.compile(r"Answer format: (\S+)\s*$")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON list or of JSON lines.

    Raises:
      UserError: there is no such file, or a line of it is broken; the message names both.
    """
    path = Path(path)
    text = read_text(path)
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {getattr(error, 'lineno', 1)}: broken JSON, {error}") from None
    else:
        records = []
        # Not splitlines: it would also split at separators that JSON allows within a text, such as U+2028.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}: broken JSON, {error}") from None
    if bad := [i for i, record in enumerate(records) if not isinstance(record, dict)]:
        raise UserError(f"{path}: record {bad[0]} is not an object")
    return records


def read_rows(
    path: Path, tasks: Sequence[str], per_set: Mapping[str, Path] | None = None, ambiguous: Ambiguous = "error"
) -> list[Row]:
    """The rows of a file.

    Args:
      tasks: the run's, in the order of task ids. Rows of other tasks are left out. Where there is but one, rows that
        say no task are of it, unless a commonsense set's template among them shows that the file holds others.
      per_set: `{task: file}`, whose instructions tell the task of rows that say none.
      ambiguous: what becomes of a row whose task cannot be told.

    Raises:
      UserError: a record lacks a field, has a task id out of range, or no task that can be told.
    """
    known = _instructions(per_set or {})
    rows: list[Row] = []
    lost: list[str] = []
    left: dict[str, list[int]] = {}
    records = read_records(path)
    alone = _alone(records, tasks)
    for number, record in enumerate(records):
        where = f"{path}, record {number}"
        task = _task(record, tasks, known, alone, where)
        if task is None:
            lost.append(str(number))
        elif task not in tasks:
            left.setdefault(f"task {task!r}", []).append(number)
        elif (empty := _empty(record)) is not None:
            left.setdefault(empty, []).append(number)
        else:
            rows.extend(_rows(record, task, where))
    for why, numbers in left.items():
        near = difflib.get_close_matches(why[6:-1], tasks, n=1) if why.startswith("task ") else ()
        meant = f" (did you mean {near[0]}?)" if near else ""
        which = listed(map(str, numbers), most=3)
        print(f"{path}: left out {len(numbers)} rows, {why}{meant}: records {which}", file=sys.stderr)
    if lost and ambiguous == "error":
        raise UserError(
            f"{path}: {len(lost)} of {len(lost) + len(rows)} rows say no task and could be of several, records "
            f"{listed(lost)}; give the sets' own files (data.per_set), or --data.ambiguous=drop"
        )
    return rows


def _empty(record: Mapping) -> str | None:
    """Why nothing can be learnt from a record, if so: its output is nothing, or something is NaN and not text."""
    for name in ("output", "completion", "label"):
        if name in record and (record[name] is None or str(record[name]).strip() == ""):
            return f"whose {name} is empty"
    for name, value in record.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"whose {name} is {value}"
    return None


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Rows of each task."""
    return dict(Counter(row.task for row in rows))


def _begins(record: Mapping) -> tuple[str, ...]:
    """The sets whose instructions begin as the record's does."""
    instruction = record.get("instruction")
    said = instruction if isinstance(instruction, str) else ""
    return next((sets for start, sets in TEMPLATES.items() if said.startswith(start)), ())


def _alone(records: Sequence[Mapping], tasks: Sequence[str]) -> bool:
    """Whether records that say no task are all of the run's only one."""
    if len(tasks) != 1:
        return False
    foreign = any((sets := _begins(record)) and tasks[0] not in sets for record in records)
    return not (foreign and any(tasks[0] in sets for sets in TEMPLATES.values()))


def _task(
    record: Mapping, tasks: Sequence[str], known: Mapping[str, frozenset[str]], alone: bool, where: str
) -> str | None:
    """The task a record is of, or None where it could be of several."""
    if "task" in record:
        if not isinstance(record["task"], str):
            raise UserError(f"{where}: task {record['task']!r} is not a name; a number goes into task_id")
        return record["task"]
    if "task_id" in record:
        number = record["task_id"]
        if type(number) is not int or not 0 <= number < len(tasks):
            raise UserError(f"{where}: task_id {number!r} is none of 0 to {len(tasks) - 1}, the run's tasks")
        return tasks[number]
    if alone:
        return tasks[0]
    begins = _begins(record)
    if len(begins) > 1:
        begins = tuple(known.get(record["instruction"].strip(), frozenset()) & set(begins))
    return begins[0] if len(begins) == 1 else None


def _instructions(per_set: Mapping[str, Path]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for task, path in per_set.items():
        for record in read_records(path):
            instruction = str(record.get("instruction", "")).strip()
            found[instruction] = found.get(instruction, frozenset()) | {task}
    return found


def _rows(record: Mapping, task: str, where: str) -> Iterator[Row]:
    if "messages" in record:
        yield from _chat(record["messages"], task, where)
    elif "prompt" in record:
        prompt, completion = _texts(record, ("prompt", "completion"), where)
        yield Row(task, prompt, "", completion, _answer(record, completion.strip()), prompt=prompt, form="prompt")
    elif "text_a" in record:
        a, b, label = _texts(record, ("text_a", "text_b", "label"), where)
        yield Row(task, f"{task}: {a}\n{b}", "", label, label, form="pair")
    else:
        instruction, output = _texts(record, ("instruction", "output"), where)
        context, answer = record.get("input") or "", _answer(record, output)
        if not isinstance(context, str):
            raise UserError(f"{where}: input is not text")
        _whole(context, "input", where)
        yield Row(task, instruction, context, output, answer, _options(instruction, output, answer))


def _answer(record: Mapping, otherwise: str) -> str:
    answer = record.get("answer")
    return otherwise if answer is None else str(answer)


def _options(instruction: str, output: str, answer: str) -> tuple[str, ...]:
    """The output with each answer that the instruction allows, if the true one is among them."""
    allowed = found.group(1).split("/") if (found := FORMAT.search(instruction)) else []
    if answer not in allowed or not output.endswith(answer):
        return ()
    return tuple(output.removesuffix(answer) + other for other in allowed)


def _texts(record: Mapping, names: Sequence[str], where: str) -> list[str]:
    if missing := [name for name in names if not isinstance(record.get(name), str | int | float)]:
        chat = next((name for name in CHATS if isinstance(record.get(name), list)), None)
        mend = f"; a chat in {chat} is called messages here, with role and content" if chat else ""
        raise UserError(f"{where}: no {missing[0]}; it has {', '.join(record) or 'nothing'}{mend}")
    return [_whole(str(record[name]), name, where) for name in names]


def _whole(text: str, name: str, where: str) -> str:
    """A text of whole characters. Raises UserError for half of a pair that JSON escapes apart, as cut emoji are."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(error.start - 20, 0) : error.start]
        raise UserError(f"{where}: {name} holds half a character, {text[error.start]!a}, after {near!r}") from None
    return text


def _chat(messages: Any, task: str, where: str) -> Iterator[Row]:
    """A row for each assistant turn, prompted with all that came before."""
    before: list[tuple[str, str]] = []
    turns = 0
    for message in messages if isinstance(messages, list) else ():
        known = message if isinstance(message, Mapping) else {}
        role, content = known.get("role"), known.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise UserError(f"{where}: a message needs a role (system, user or assistant) and a content")
        _whole(content, "a message", where)
        if role == "assistant":
            turns += 1
            prompt = plain(before)
            yield Row(task, prompt, "", content, content, prompt=prompt, messages=tuple(before), form="chat")
        before.append((role, content))
    if not turns:
        raise UserError(f"{where}: no message of an assistant to learn from")

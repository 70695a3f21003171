"""Rows from files: every form a record comes in, tasks that have to be told, and broken files."""

import json

import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.text.datasets.commonsense import SIZES, CommonsenseData
from mtlora_jax.text.datasets.glue import GlueData
from mtlora_jax.text.datasets.microworld import FAMILIES, World, rows
from mtlora_jax.text.datasets.read import counts, read_rows
from mtlora_jax.text.tasks import COMMONSENSE, GLUE

WORLD = World()
TASKS = tuple(COMMONSENSE)


def read_commonsense(root, split, tasks, train=""):
    return CommonsenseData(root=str(root), train=train).rows(split, tasks)


def read_glue(root, split, tasks):
    return GlueData(root=str(root)).rows(split, tasks)


def record(row, **more):
    return {"instruction": row.instruction, "input": "", "output": row.output, "answer": row.answer, **more}


def write(path, records, lines=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The eight sets in their published layout, of the micro-world's rows."""
    folder = tmp_path_factory.mktemp("commonsense")
    everything = []
    for i, task in enumerate(TASKS):
        own = rows(task, "train", 6, WORLD)
        write(folder / task / "train.json", [record(row) for row in own])
        write(folder / task / "test.json", [record(row) for row in rows(task, "val", 4, WORLD)])
        everything += [(record(row), i) for row in own]
    write(folder / "commonsense_170k_taskid.json", [{**r, "task_id": i} for r, i in everything])
    write(folder / "named.json", [{**r, "task": TASKS[i]} for r, i in everything])
    write(folder / "commonsense_170k.json", [r for r, _ in everything])
    return folder


@pytest.mark.parametrize("train", ["", "commonsense_170k_taskid.json", "named.json", "commonsense_170k.json"])
def test_all_forms_of_the_training_set_are_the_same_rows(root, train):
    found = read_commonsense(root, "train", TASKS, train)
    assert counts(found) == dict.fromkeys(TASKS, 6)
    assert found == read_commonsense(root, "train", TASKS)
    some = read_commonsense(root, "train", ("piqa", "ARC-Easy"), train)
    assert counts(some) == {"piqa": 6, "ARC-Easy": 6}


def test_held_out_rows_are_the_test_files(root):
    assert counts(read_commonsense(root, "val", TASKS)) == dict.fromkeys(TASKS, 4)


def test_published_sizes_add_up():
    assert set(SIZES) == set(TASKS) == set(FAMILIES)
    assert sum(train for train, _ in SIZES.values()) == 170420


def test_rows_whose_task_cannot_be_told_are_listed_and_never_guessed(root, tmp_path):
    file = root / "commonsense_170k.json"
    with pytest.raises(UserError, match=r"24 of 48 rows say no task .* records 12, 13, 14, 15, 16 and 19 more"):
        read_rows(file, TASKS)
    told = ("boolq", "piqa", "hellaswag", "winogrande")
    assert counts(read_rows(file, TASKS, ambiguous="drop")) == dict.fromkeys(told, 6)
    shared = write(tmp_path / "shared.json", [record(rows("ARC-Easy", "train", 1, WORLD)[0])])
    with pytest.raises(UserError, match="1 of 1 rows"):
        read_rows(shared, TASKS, {"ARC-Easy": shared, "openbookqa": shared})


def test_other_forms_of_a_record(tmp_path):
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "so long"},
    ]
    records = [
        {"task": "a", "prompt": "2 + 2 =", "completion": " 4"},
        {"task": "b", "messages": chat},
        {"task": "a", "text_a": "x", "text_b": "y", "label": 1},
    ]
    found = read_rows(write(tmp_path / "rows.jsonl", records, lines=True), ("a", "b"))
    assert [(row.task, row.output, row.answer) for row in found] == [
        ("a", " 4", "4"),
        ("b", "hi", "hi"),
        ("b", "so long", "so long"),
        ("a", "1", "1"),
    ]
    assert found[0].prompt == "2 + 2 ="
    assert found[2].prompt.endswith("hi\n\n### User:\nbye\n\n### Assistant:\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"task": "a", "prompt": "x", "completion": "y"}\n{broken', r"rows.jsonl, line 2: broken JSON"),
        ('[{"a": 1},\n {]', r"rows.jsonl, line 2: broken JSON"),
        ("[1]", "record 0 is not an object"),
        ('{"task": "a", "instruction": "x"}', "record 0: no output; it has task, instruction"),
        ('{"task": "a", "prompt": "x"}', "record 0: no completion"),
        ('{"task_id": 2, "prompt": "x", "completion": "y"}', "task_id 2 is none of 0 to 1"),
        ('{"task_id": -1, "prompt": "x", "completion": "y"}', "task_id -1 is none of 0 to 1"),
        ('{"task_id": "0", "prompt": "x", "completion": "y"}', "task_id '0' is none of 0 to 1"),
        ('{"task": "a", "messages": [{"role": "robot", "content": "x"}]}', "a message needs a role"),
        ('{"task": "a", "messages": [{"role": "user", "content": "x"}]}', "no message of an assistant"),
    ],
)
def test_broken_files_are_one_line_with_file_and_place(tmp_path, text, message):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_rows(file, ("a", "b"))


def test_missing_files_and_sets_are_one_line(root, tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_rows(tmp_path / "none.json", ("a",))
    with pytest.raises(UserError, match="there is no folder"):
        read_commonsense(tmp_path / "none", "train", TASKS)
    with pytest.raises(UserError, match=r"boolq/train\.json"):
        read_commonsense(tmp_path, "train", TASKS)


GLUE_ROWS = {
    "cola": ({"sentence": "he go", "label": 0}, "unacceptable"),
    "mnli": ({"premise": "p", "hypothesis": "h", "label": 2}, "contradiction"),
    "stsb": ({"sentence1": "p", "sentence2": "h", "label": 3.25}, "3.2"),
    "sst2": ({"sentence": "good", "label": 1}, "positive"),
}


def test_glue_is_cast_to_text(tmp_path):
    for task, (row, _) in GLUE_ROWS.items():
        write(tmp_path / task / "validation.jsonl", [row], lines=True)
    (tmp_path / "mnli" / "validation.jsonl").rename(tmp_path / "mnli" / "validation_matched.jsonl")
    for row in read_glue(tmp_path, "val", tuple(GLUE_ROWS)):
        assert row.output == GLUE_ROWS[row.task][1]
        assert row.answer == (row.output if GLUE[row.task].answers else f"{GLUE_ROWS[row.task][0]['label']:g}")
        assert row.options == GLUE[row.task].answers
        assert GLUE[row.task].extract(row.output) == row.output


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence": "x", "label": 2}, "its label is 2, sst2 has 0 to 1"),
        ({"sentence": "x", "label": -1}, "its label is -1"),
        ({"label": 1}, "no sentence"),
    ],
)
def test_glue_rows_out_of_range_are_one_line(tmp_path, row, message):
    write(tmp_path / "sst2" / "train.jsonl", [row], lines=True)
    with pytest.raises(UserError, match=message):
        read_glue(tmp_path, "train", ("sst2",))


def test_glue_that_is_nowhere_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"holds neither rte/train\.jsonl nor a prepared glue/rte"):
        read_glue(tmp_path, "train", ("rte",))


def lines_of(tmp_path, *records):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


GOOD = {"task": "boolq", "instruction": "q", "output": "true"}


def test_rows_that_are_left_out_are_counted_and_named(tmp_path, capsys):
    path = lines_of(
        tmp_path,
        GOOD,
        {**GOOD, "task": "bolq"},
        {**GOOD, "task": "bolq"},
        {**GOOD, "output": "  "},
        {**GOOD, "output": None},
        '{"task": "boolq", "instruction": NaN, "output": "true"}',
    )
    assert len(read_rows(path, ("boolq", "piqa"))) == 1
    said = capsys.readouterr().err
    assert f"{path}: left out 2 rows, task 'bolq' (did you mean boolq?): records 1, 2" in said
    assert "left out 2 rows, whose output is empty: records 3, 4" in said
    assert "left out 1 rows, whose instruction is nan: records 5" in said


@pytest.mark.parametrize("key", ["conversations", "data"])
def test_chats_under_other_names_are_told_theirs(tmp_path, key):
    path = lines_of(tmp_path, {"task": "boolq", key: [{"from": "human", "value": "hi"}]})
    with pytest.raises(UserError, match=f"a chat in {key} is called messages here"):
        read_rows(path, ("boolq",))


@pytest.mark.parametrize(
    "record",
    [
        {**GOOD, "output": "fine \ud83d"},
        {**GOOD, "input": "\ude00"},
        {"task": "boolq", "messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "x"}]},
    ],
)
def test_half_an_emoji_is_one_line_with_file_and_row(tmp_path, record):
    path = lines_of(tmp_path, GOOD, record)
    with pytest.raises(UserError, match=r"rows\.jsonl, record 1: .* holds half a character"):
        read_rows(path, ("boolq",))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_systems_are_read(tmp_path, encoding):
    path = tmp_path / "rows.jsonl"
    path.write_bytes((json.dumps(GOOD) + "\r\n").encode(encoding))
    assert len(read_rows(path, ("boolq",))) == 1


@pytest.mark.parametrize("messages", [["hi"], [None], [{"role": "user"}], "hi", {}])
def test_messages_that_are_none_are_one_line(tmp_path, messages):
    with pytest.raises(UserError, match="record 0: "):
        read_rows(lines_of(tmp_path, {"task": "boolq", "messages": messages}), ("boolq",))

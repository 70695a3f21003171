"""Rows that files hold in the wild: odd characters, absent values, mixed sets, options."""

import json

import pytest

from mtlora_jax.errors import UserError
from mtlora_jax.testing.text_layouts import write_commonsense, write_glue
from mtlora_jax.text.datasets.commonsense import CommonsenseData
from mtlora_jax.text.datasets.glue import GlueData
from mtlora_jax.text.datasets.read import counts, read_rows
from mtlora_jax.text.tasks import COMMONSENSE, GLUE

TASKS = tuple(COMMONSENSE)
PLAIN = {"task": "a", "instruction": "i", "input": "", "output": "o", "answer": "o"}


def read_commonsense(root, split, tasks, train=""):
    return CommonsenseData(root=str(root), train=train).rows(split, tasks)


def read_glue(root, split, tasks):
    return GlueData(root=str(root)).rows(split, tasks)


def write(path, *records):
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_commonsense(tmp_path_factory.mktemp("commonsense"), train=5, test=2)


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_line_of_json_ends_at_a_line_feed_alone(tmp_path, odd):
    file = write(tmp_path / "rows.jsonl", {**PLAIN, "instruction": f"x{odd}y"}, PLAIN)
    assert [row.instruction for row in read_rows(file, ("a",))] == [f"x{odd}y", "i"]


def test_byte_order_marks_and_carriage_returns_are_no_part_of_a_row(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{json.dumps(PLAIN)}\r\n{json.dumps(PLAIN)}\r\n".encode())
    assert len(read_rows(tmp_path / "rows.jsonl", ("a",))) == 2


def test_an_answer_that_is_absent_is_the_output(tmp_path):
    pair = {"task": "a", "prompt": "2 + 2 =", "completion": " 4"}
    file = write(tmp_path / "rows.jsonl", {**PLAIN, "answer": None}, {**pair, "answer": 4}, {**pair, "answer": None})
    assert [row.answer for row in read_rows(file, ("a",))] == ["o", "4", "4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": 3}, "task 3 is not a name"),
        ({"task": None}, "task None is not a name"),
        ({"input": ["x"]}, "input is not text"),
        ({"instruction": None}, "no instruction"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=rf"rows\.jsonl, record 0: .*{message}"):
        read_rows(write(tmp_path / "rows.jsonl", {**PLAIN, **change}), ("a", "b"))


def test_a_truth_value_is_no_task_id(tmp_path):
    record = {key: value for key, value in PLAIN.items() if key != "task"}
    with pytest.raises(UserError, match="task_id True is none of"):
        read_rows(write(tmp_path / "rows.jsonl", {**record, "task_id": True}), ("a", "b"))


def test_a_run_of_one_task_takes_no_other_set_s_rows(root):
    file = root / "commonsense_170k.json"
    assert counts(read_rows(file, ("boolq",), ambiguous="drop")) == {"boolq": 5}
    with pytest.raises(UserError, match="20 of 20 rows say no task"):
        read_rows(file, ("ARC-Easy",))
    own = {task: root / task / "train.json" for task in TASKS}
    assert counts(read_rows(file, ("ARC-Easy",), own)) == {"ARC-Easy": 5}
    # A set's own file, and a file of one's own in a published form, are of the run's one task.
    assert counts(read_rows(root / "ARC-Easy" / "train.json", ("ARC-Easy",))) == {"ARC-Easy": 5}
    assert counts(read_rows(root / "boolq" / "train.json", ("mine",))) == {"mine": 5}


def test_the_published_layout_reads_alike_from_all_its_files(root):
    by_set = sorted(read_commonsense(root, "train", TASKS), key=str)
    for train in ("commonsense_170k.json", "commonsense_170k_taskid.json"):
        assert sorted(read_commonsense(root, "train", TASKS, train), key=str) == by_set
    assert counts(read_commonsense(root, "val", TASKS)) == dict.fromkeys(TASKS, 2)


def test_options_are_what_the_instruction_allows(root):
    for row in read_commonsense(root, "train", TASKS):
        task = COMMONSENSE[row.task]
        assert row.output in row.options
        answers = [task.extract(option) for option in row.options]
        assert len(answers) == {"boolq": 2, "piqa": 2, "winogrande": 2, "social_i_qa": 3}.get(row.task, 4)
        assert answers == list(task.answers[: len(answers)])


@pytest.mark.parametrize(
    ("instruction", "output"), [("no format", "true"), ("Answer format: yes/no", "true"), ("Answer format: true", "t")]
)
def test_without_a_format_that_holds_the_answer_there_are_no_options(tmp_path, instruction, output):
    record = {**PLAIN, "instruction": instruction, "output": output, "answer": "true"}
    assert read_rows(write(tmp_path / "rows.jsonl", record), ("a",))[0].options == ()


def test_made_up_rows_are_a_function_of_the_seed(tmp_path):
    one, same, other = (write_commonsense(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1)))
    name = "commonsense_170k_taskid.json"
    assert (one / name).read_bytes() == (same / name).read_bytes() != (other / name).read_bytes()


def test_glue_reads_from_its_layout(tmp_path):
    root = write_glue(tmp_path)
    for split, length in (("train", 4), ("val", 3)):
        assert counts(read_glue(root, split, tuple(GLUE))) == dict.fromkeys(GLUE, length)


@pytest.mark.parametrize(("task", "label"), [("stsb", "NaN"), ("stsb", "Infinity"), ("stsb", "true"), ("sst2", "true")])
def test_labels_that_are_no_numbers_are_refused(tmp_path, task, label):
    (tmp_path / task).mkdir()
    record = '{"sentence": "a", "sentence1": "a", "sentence2": "b", "label": LABEL}'
    (tmp_path / task / "train.jsonl").write_text(record.replace("LABEL", label))
    with pytest.raises(UserError, match="its label is"):
        read_glue(tmp_path, "train", (task,))

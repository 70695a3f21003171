"""Protocols by name: their tasks, the ninth set's files, and published numbers beside one's own."""

import json
from dataclasses import replace

import pytest
from small_text import CONFIG

from mtlora_jax.config import to_json
from mtlora_jax.errors import UserError
from mtlora_jax.report import main as report
from mtlora_jax.testing.text_layouts import write_commonsense
from mtlora_jax.text.config import CommonsenseData, TaskConfig
from mtlora_jax.text.datasets.commonsense_qa import read_commonsense_qa
from mtlora_jax.text.published import IN_TABLES, PROTOCOLS
from mtlora_jax.text.tasks import COMMONSENSE, TASKS

QUESTION = {"question_concept": "x", "choices": [{"label": c, "text": f"t{c}"} for c in "ABCDE"], "stem": "Where?"}
AUTHORS = {"answerKey": "C", "id": "1", "question": QUESTION}
HUB = {
    "id": "1",
    "question": "Where?",
    "question_concept": "x",
    "choices": {"label": list("ABCDE"), "text": [f"t{c}" for c in "ABCDE"]},
    "answerKey": "C",
}


def test_averages_are_of_their_rows():
    for result in PROTOCOLS["commonsense8"].results:
        own = [result.scores[task] for task in IN_TABLES]
        assert result.scores["average"] == pytest.approx(sum(own) / 8, abs=0.06), result
    assert set(PROTOCOLS["csr_mtl9"].tasks) - set(PROTOCOLS["commonsense8"].tasks) == {"commonsense_qa"}


def test_commonsense_qa_is_read_as_its_authors_and_as_the_hub_store_it(tmp_path):
    path = tmp_path / "train_rand_split.jsonl"
    path.write_text(f"{json.dumps(AUTHORS)}\n{json.dumps(HUB)}\n")
    first, second = read_commonsense_qa(path)
    assert first == second
    assert first.instruction == (
        "Please choose the correct answer to the question: Where?\n\n"
        "Answer1: tA Answer2: tB Answer3: tC Answer4: tD Answer5: tE\n\n"
        "Answer format: answer1/answer2/answer3/answer4/answer5"
    )
    assert TASKS["commonsense_qa"].extract(first.output) == first.answer == "answer3"
    assert first.output == first.options[2]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({**AUTHORS, "answerKey": "F"}, "answerKey 'F' is none of A, B, C, D, E"),
        ({"instruction": "x"}, "not of CommonsenseQA"),
        ({**AUTHORS, "question": {"stem": "x", "choices": []}}, "not of CommonsenseQA"),
        ({**HUB, "choices": None}, "not of CommonsenseQA"),
    ],
)
def test_what_is_not_commonsense_qa_is_named(tmp_path, record, said):
    path = tmp_path / "train_rand_split.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"{path}, record 0: {said}"):
        read_commonsense_qa(path)


@pytest.mark.parametrize("train", ["", "commonsense_170k_taskid.json"])
def test_nine_tasks_come_from_their_files(tmp_path, train):
    data, tasks = CommonsenseData(root=str(write_commonsense(tmp_path)), train=train), PROTOCOLS["csr_mtl9"].tasks
    for split, own in (("train", 4), ("val", 3)):
        rows = data.open(split, tasks)
        counted = {task: sum(row.task == task for row in rows) for task in tasks}
        assert counted == {**dict.fromkeys(COMMONSENSE, own), "commonsense_qa": 3}


def test_published_numbers_stand_beside_one_s_own(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    tasks = PROTOCOLS["commonsense8"].tasks
    config = replace(CONFIG, tasks={task: TaskConfig() for task in tasks})
    (run / "config.json").write_text(json.dumps(to_json(config)))
    with pytest.raises(SystemExit):
        report([str(run), "--scored", "generate"])
    assert f"python eval.py --workdir {run} --protocol generate" in capsys.readouterr().err
    metrics = {**{task: {"accuracy": 0.5, "accuracy_reference": 0.6} for task in tasks}, "total": {"average": 0.5}}
    (run / "evaluation_generate.json").write_text(json.dumps({"step": 2, "protocol": "generate", "metrics": metrics}))
    report([str(run), "--scored", "generate", "--published", "commonsense8"])
    out = capsys.readouterr().out
    header, boolq = (next(line for line in out.splitlines() if line.lstrip().startswith(w)) for w in ("task", "boolq"))
    assert "Llama-3-8B DoRA r32 [1]" in header
    assert boolq.split()[:3] == ["boolq", "0.500", "0.698"]
    assert next(line for line in out.splitlines() if "average" in line).split()[1:3] == ["0.500", "0.776"]
    assert "[1] DoRA's repository" in out
    for name, said in (("csr_mtl9", "differs in commonsense_qa"), ("nine", "there are commonsense8, csr_mtl9")):
        with pytest.raises(SystemExit):
            report([str(run), "--scored", "generate", "--published", name])
        assert said in capsys.readouterr().err

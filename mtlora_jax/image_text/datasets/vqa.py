"""VQAv2 in Karpathy's splits, as VL-T5 prepared them.

<root>/vqa/karpathy_{train,val,test}.json                 questions, with scored answers to learn
<root>/vqa/v2_mscoco_{train,val}2014_annotations.json     the official ten answers of every question
"""

from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json
from mtlora_jax.image_text.datasets.files import check_records, records, scores
from mtlora_jax.image_text.datasets.questions import Question

YEARS = ("train2014", "val2014")
FIELDS = {"img_id": str, "question_id": int, "label": dict}


def read(root: Path, split: str) -> list[Question]:
    """The questions of a split, `train`, `val` or `test`; with the annotators' answers where they are scored.

    Raises:
      UserError: a file is missing or broken, or a question that is scored has no annotators.
    """
    path = root / "vqa" / f"karpathy_{split}.json"
    found = records(path, FIELDS)
    known = {} if split == "train" else annotations(root)
    questions = []
    for record in found:
        name = record["question_id"]
        where = f"{path}, question {name}"
        text = record.get("sent", record.get("question"))
        if not isinstance(text, str):
            raise UserError(f"{where}: no sent, and no question")
        if known and name not in known:
            files = " and ".join(_file(root, year).name for year in YEARS)
            raise UserError(f"{where} has no annotators in {files}: are those of another year?")
        common = record.get("is_topk_optimal")
        answers, images = scores(record["label"], where), (f"COCO/{record['img_id']}",)
        questions.append(Question("vqa", str(name), text, images, answers, known.get(name, ()), is_common=common))
    return questions


def annotations(root: Path) -> dict[int, tuple[str, ...]]:
    """The annotators' answers to every question."""
    found: dict[int, tuple[str, ...]] = {}
    for year in YEARS:
        path = _file(root, year)
        told: Any = read_json(path)
        if not isinstance(told, dict) or not isinstance(told.get("annotations"), list):
            raise UserError(f"{path} holds no annotations: questions are in another file than answers")
        check_records(told["annotations"], {"question_id": int, "answers": list}, path)
        for record in told["annotations"]:
            answers = tuple(a.get("answer") if isinstance(a, dict) else a for a in record["answers"])
            if not answers or not all(isinstance(answer, str) for answer in answers):
                raise UserError(f"{path}, question {record['question_id']} has no annotators' answers")
            found[record["question_id"]] = answers
    return found


def _file(root: Path, year: str) -> Path:
    return root / "vqa" / f"v2_mscoco_{year}_annotations.json"

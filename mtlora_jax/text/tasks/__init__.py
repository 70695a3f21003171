"""The text tasks by name."""

from collections.abc import Mapping

from mtlora_jax.text.tasks.task import Task


def numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}{i}" for i in range(1, count + 1))


COMMONSENSE: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("boolq", ("true", "false")),
        Task("piqa", numbered("solution", 2)),
        Task("social_i_qa", numbered("answer", 5), digits=True),
        Task("hellaswag", numbered("ending", 4)),
        Task("winogrande", numbered("option", 2)),
        Task("ARC-Challenge", numbered("answer", 5), digits=True),
        Task("ARC-Easy", numbered("answer", 5), digits=True),
        Task("openbookqa", numbered("answer", 5), digits=True),
    )
}
"""The eight sets, in the order of the published task ids 0 to 7."""

COMMONSENSE_QA = Task("commonsense_qa", numbered("answer", 5), digits=True)
"""The ninth set, which some add to the eight."""

GLUE: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("unacceptable", "acceptable"), ("matthews", "accuracy")),
        Task("mnli", ("entailment", "neutral", "contradiction")),
        Task("mrpc", ("different", "equivalent"), ("f1", "accuracy")),
        Task("qnli", ("entailment", "not_entailment")),
        Task("qqp", ("different", "duplicate"), ("f1", "accuracy")),
        Task("rte", ("entailment", "not_entailment")),
        Task("sst2", ("negative", "positive")),
        Task("stsb", (), ("pearson", "spearman"), extracted="first"),
        Task("wnli", ("not_entailment", "entailment")),
    )
}
"""GLUE; answers are in the order of the labels 0, 1, 2."""

TASKS: Mapping[str, Task] = {**COMMONSENSE, COMMONSENSE_QA.name: COMMONSENSE_QA, **GLUE}

"""Protocols by name: which tasks are scored together, and what has been published for them.

Accuracies in percent of what is generated freely on the whole test sets, `eval.py --protocol generate` here. Numbers of
one source compare; those of two sources differ in rows, prompts and scorers too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mtlora_jax.text.tasks import COMMONSENSE, COMMONSENSE_QA


@dataclass(frozen=True)
class Result:
    """A published result.

    Attributes:
      model, method: of what.
      source: who measured it.
      scores: percent by task; `average` is theirs. What they do not say is left out.
    """

    model: str
    method: str
    source: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Protocol:
    """Tasks that are scored together.

    Attributes:
      tasks: in the order of task ids.
      results: what has been published.
    """

    tasks: tuple[str, ...]
    results: tuple[Result, ...]


DORA = "DoRA's repository (NVlabs/DoRA), on the data of LLM-Adapters"
SAMORA = "SAMoRA, arXiv 2604.19048, as quoted by digests of it"
IN_TABLES = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa")
"""The order in which tables list the eight sets."""


def _row(model: str, method: str, source: str, *scores: float) -> Result:
    return Result(model, method, source, dict(zip((*IN_TABLES, "average"), scores, strict=True)))


PROTOCOLS: Mapping[str, Protocol] = {
    "commonsense8": Protocol(
        tuple(COMMONSENSE),
        (
            _row("Llama-2-7B", "LoRA r32", DORA, 69.8, 79.9, 79.5, 83.6, 82.6, 79.8, 64.7, 81.0, 77.6),
            _row("Llama-2-7B", "DoRA r16", DORA, 72.0, 83.1, 79.9, 89.1, 83.0, 84.5, 71.0, 81.2, 80.5),
            _row("Llama-2-7B", "DoRA r32", DORA, 71.8, 83.7, 76.0, 89.1, 82.6, 83.7, 68.2, 82.4, 79.7),
            _row("Llama-3-8B", "LoRA r32", DORA, 70.8, 85.2, 79.9, 91.7, 84.3, 84.2, 71.2, 79.0, 80.8),
            _row("Llama-3-8B", "DoRA r16", DORA, 74.5, 88.8, 80.3, 95.5, 84.7, 90.1, 79.1, 87.2, 85.0),
            _row("Llama-3-8B", "DoRA r32", DORA, 74.6, 89.3, 79.9, 95.5, 85.6, 90.5, 80.4, 85.8, 85.2),
        ),
    ),
    "csr_mtl9": Protocol(
        (*COMMONSENSE, COMMONSENSE_QA.name),
        (
            Result("Llama-3.1-8B", "LoRA", SAMORA, {"average": 79.54}),
            Result("Llama-3.1-8B", "HydraLoRA", SAMORA, {"average": 86.27}),
            Result(
                *("Llama-3.1-8B", "MTL-LoRA", SAMORA),
                {"boolq": 74.34, "piqa": 89.90, "ARC-Challenge": 84.55, "ARC-Easy": 93.81, "average": 86.77},
            ),
            Result("Llama-3.1-8B", "SAMoRA", SAMORA, {"average": 87.64}),
            Result("Qwen3-8B", "LoRA", SAMORA, {"average": 88.64}),
            Result("Qwen3-8B", "MTL-LoRA", SAMORA, {"average": 90.98}),
            Result("Qwen3-8B", "SAMoRA", SAMORA, {"average": 91.71}),
        ),
    ),
}
"""Eight sets of one file of 170,420 training rows; and those with CommonsenseQA."""

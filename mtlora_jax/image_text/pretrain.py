"""Pretraining a BART on texts about scenes, without pictures: where the embedded `scenes_bart` comes from.

It fills masked spans of descriptions, and answers questions about descriptions that it reads. A run writes its model as
a Hugging Face folder.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.config import Config
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart import Bart, BartSpec, init
from mtlora_jax.image_text.bart_weights import save_bart
from mtlora_jax.image_text.datasets.scenes.prose import example
from mtlora_jax.image_text.tasks import PREFIXES
from mtlora_jax.image_text.tokenizer import BartTokenizer
from mtlora_jax.input.loader import InOrder, batches_of
from mtlora_jax.input.protocols import Examples
from mtlora_jax.language.loss import mean_loss, token_losses
from mtlora_jax.language.packing import IGNORE
from mtlora_jax.weights.hub import shipped

TASK = "text"
"""The one objective."""
NAME = "scenes_bart"
SAMPLED = 256
"""Training examples that the constant predictor is fitted to."""


@dataclass(frozen=True)
class BartPretrainConfig(Config):
    """Reading descriptions of scenes.

    Attributes:
      model: the shape; its vocabulary is the tokenizer's.
      source_length, target_length: longest source and target, in tokens.
      train_length, val_length: examples per split.
      dtype: compute dtype.
    """

    model: BartSpec = field(default_factory=BartSpec)
    source_length: int = 96
    target_length: int = 48
    train_length: int = 1 << 20
    val_length: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"

    def validate(self) -> None:
        super().validate()
        if problem := self.model.problems():
            raise UserError(f"model: {problem}")


@dataclass(frozen=True)
class Texts(Examples):
    """Examples of `datasets.scenes.prose` as tokens, each a function of its number."""

    tokenizer: BartTokenizer
    length: int
    split: str
    sizes: tuple[int, int]
    seed: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        source, target = example(PREFIXES, self.seed, self.split, index)
        return {
            "tokens": padded(self.tokenizer.encode(source, self.sizes[0]), self.sizes[0], self.tokenizer.pad),
            "targets": padded(self.tokenizer.encode(target, self.sizes[1]), self.sizes[1], IGNORE),
            "valid": {TASK: np.bool_(True)},
            "id": np.int64(index),
        }


def padded(ids: Sequence[int], length: int, filler: int) -> np.ndarray:
    """int32 `[length]`."""
    return np.array([*ids, *[filler] * (length - len(ids))], np.int32)


def make_workload(config: BartPretrainConfig) -> Workload:
    model = Bart(config.model, dtype=jnp.dtype(config.dtype))
    tokenizer = BartTokenizer(shipped(NAME), config.model)
    sizes = config.source_length, config.target_length

    def abstract_batch(batch_size: int) -> dict:
        tokens, targets = (jax.ShapeDtypeStruct((batch_size, size), np.int32) for size in sizes)
        valid = jax.ShapeDtypeStruct((batch_size,), np.bool_)
        return {"tokens": tokens, "targets": targets, "valid": {TASK: valid}}

    def opened(split: str) -> Texts:
        length = config.train_length if split == "train" else config.val_length
        return Texts(tokenizer, length, split, sizes, config.seed)

    def forward(variables: Mapping, batch: Mapping, key: jax.Array | None):
        rngs = None if key is None else {"dropout": key}
        apply = partial(model.apply, variables, train=key is not None, method="hidden", rngs=rngs)
        head = partial(model.apply, variables, method="head")
        hidden = apply(batch["tokens"], targets=batch["targets"])
        return token_losses(head, model.spec.vocab_size, hidden, batch["targets"]), {}

    def measure(outputs: Mapping, batch: Mapping) -> dict:
        counted = batch["targets"] != IGNORE
        right = (outputs["prediction"] == batch["targets"]) & counted
        exact = (right | ~counted).all(1)
        return {TASK: {"right": right.sum(1), "tokens": counted.sum(1), "exact": exact, "examples": exact | True}}

    def compute(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        tokens, examples = max(sums["tokens"], 1), max(sums["examples"], 1)
        return {"accuracy": float(sums["right"] / tokens), "exact": float(sums["exact"] / examples)}

    return Workload(
        objectives={TASK: Objective(1.0, mean_loss, compute, "accuracy", higher_is_better=True)},
        abstract_batch=abstract_batch,
        init=partial(init, model),
        load_base=lambda: None,
        forward=forward,
        sums=sums,
        measure=measure,
        table=((r"^params/.*(scale|bias)$", "no_decay"), (r"^params/", "decay")),
        train_batches=lambda batch_size: batches_of(opened("train"), batch_size),
        held_out=lambda batch_size: InOrder(opened("val"), batch_size),
        constant=lambda: constant(opened("train"), opened("val")),
        artifacts=partial(artifacts, config.model, tokenizer),
    )


def sums(outputs: Mapping, batch: Mapping) -> dict[str, dict[str, jax.Array]]:
    """The mean over each example's tokens, summed over examples: an answer of a word counts as a description does."""
    counted = (batch["targets"] != IGNORE) & batch["valid"][TASK][:, None]
    each = (outputs["nll"] * counted).sum(1) / jnp.maximum(counted.sum(1), 1)
    return {TASK: {"nll": each.sum(), "tokens": counted.any(1).sum().astype(jnp.float32)}}


def constant(train: Texts, held_out: Texts) -> dict[str, dict[str, float]]:
    """Always the most frequent token, and always the most frequent target."""
    seen = [train[i]["targets"] for i in range(min(SAMPLED, len(train)))]
    asked = [held_out[i]["targets"] for i in range(len(held_out))]
    tokens = np.concatenate(asked)
    most = np.bincount(np.concatenate(seen)[np.concatenate(seen) != IGNORE]).argmax()
    target, _ = Counter(of.tobytes() for of in seen).most_common(1)[0]
    exact = float(np.mean([of.tobytes() == target for of in asked]))
    return {TASK: {"accuracy": float((tokens[tokens != IGNORE] == most).mean()), "exact": exact}}


def artifacts(
    spec: BartSpec, tokenizer: BartTokenizer, variables: Mapping, folder: Path, meta: Mapping[str, Any]
) -> Sequence[str]:
    """The model in half precision, as a Hugging Face folder `bart`: what later runs start from."""
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), variables["params"])
    save_bart(folder / "bart", spec, half)
    tokenizer.save(folder / "bart")
    return ("bart",)

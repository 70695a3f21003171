"""Pretraining a BART on texts about scenes, without pictures: where the embedded `scenes_bart` comes from.

It fills masked spans of descriptions, and answers questions about descriptions that it reads. A run writes its model as
a Hugging Face folder.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import le
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.config import Config
from mtlora_jax.engine.mesh import parts_of_batch
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart import Bart, BartSpec, init
from mtlora_jax.image_text.bart_weights import save_bart
from mtlora_jax.image_text.datasets.scenes.prose import examples
from mtlora_jax.image_text.tasks import PREFIXES
from mtlora_jax.image_text.tokenizer import BartTokenizer
from mtlora_jax.input.protocols import Batches
from mtlora_jax.language.loss import mean_loss, token_losses
from mtlora_jax.language.packing import IGNORE
from mtlora_jax.weights.hub import shipped

TASK = "text"
"""The one objective."""
NAME = "scenes_bart"
SAMPLED = 16
"""Training batches that the constant predictor is fitted to."""


@dataclass(frozen=True)
class BartPretrainConfig(Config):
    """Reading descriptions of scenes.

    Attributes:
      model: the shape; its vocabulary is the tokenizer's.
      lengths: pairs of source and target lengths, in tokens; a batch is padded to the first that holds it.
      val_batches: batches that are measured.
      dtype: compute dtype.
    """

    model: BartSpec = field(default_factory=BartSpec)
    lengths: tuple[tuple[int, int], ...] = ((32, 16), (48, 24), (40, 40))
    val_batches: int = 44
    dtype: Literal["float32", "bfloat16"] = "float32"

    def validate(self) -> None:
        super().validate()
        if problem := self.model.problems():
            raise UserError(f"model: {problem}")


@dataclass(frozen=True, eq=False)
class Texts(Batches):
    """Batches of `datasets.scenes.prose` as tokens, each a function of its number.

    Attributes:
      split: whose examples.
      batch_size: B of the global batch.
    """

    tokenizer: BartTokenizer
    lengths: tuple[tuple[int, int], ...]
    split: str
    batch_size: int

    def batch(self, seed: int, step: int, rows: range) -> dict:
        """Raises UserError for a text that no pair of lengths holds."""
        pairs = examples(PREFIXES, seed, self.split, step, self.batch_size)
        texts = [[self.tokenizer.encode(text) for text in side] for side in zip(*pairs, strict=True)]
        longest = [max(map(len, side)) for side in texts]
        fits = (pair for pair in self.lengths if all(map(le, longest, pair)))
        if (lengths := next(fits, None)) is None:
            raise UserError(f"lengths: no pair holds a batch whose longest texts have {longest} tokens")
        sources, targets = ([side[row] for row in rows] for side in texts)
        return {
            "tokens": padded(sources, lengths[0], self.tokenizer.pad),
            "targets": padded(targets, lengths[1], IGNORE),
            "valid": {TASK: np.ones(len(rows), bool)},
            "id": step * self.batch_size + np.array(rows, np.int64),
        }


@dataclass(frozen=True, eq=False)
class HeldOut(Sequence):
    """The first batches of a split."""

    texts: Texts
    seed: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict:
        return self.texts.batch(self.seed, i, range(self.texts.batch_size))


def padded(texts: Sequence[Sequence[int]], length: int, filler: int) -> np.ndarray:
    """int32 `[B, length]`."""
    return np.array([[*ids, *[filler] * (length - len(ids))] for ids in texts], np.int32)


def make_workload(config: BartPretrainConfig) -> Workload:
    model = Bart(config.model, dtype=jnp.dtype(config.dtype))
    tokenizer = BartTokenizer(shipped(NAME), config.model)

    def abstract_batch(batch_size: int) -> dict:
        tokens, targets = (
            jax.ShapeDtypeStruct((batch_size, size), np.int32) for size in map(max, zip(*config.lengths, strict=True))
        )
        valid = jax.ShapeDtypeStruct((batch_size,), np.bool_)
        return {"tokens": tokens, "targets": targets, "valid": {TASK: valid}}

    def opened(split: str, batch_size: int) -> Texts:
        return Texts(tokenizer, config.lengths, split, batch_size)

    def held_out(batch_size: int) -> HeldOut:
        return HeldOut(opened("val", batch_size), config.seed, config.val_batches)

    def forward(variables: Mapping, batch: Mapping, key: jax.Array | None):
        rngs = None if key is None else {"dropout": key}
        apply = partial(model.apply, variables, train=key is not None, method="hidden", rngs=rngs)
        head = partial(model.apply, variables, method="head")
        hidden = apply(batch["tokens"], targets=batch["targets"])
        return token_losses(head, model.spec.vocab_size, hidden, batch["targets"], parts_of_batch()), {}

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
        train_batches=partial(opened, "train"),
        held_out=held_out,
        constant=lambda: constant(opened("train", config.train.batch_size), held_out(config.train.batch_size)),
        artifacts=partial(artifacts, config.model, tokenizer),
    )


def sums(outputs: Mapping, batch: Mapping) -> dict[str, dict[str, jax.Array]]:
    """The mean over each example's tokens, summed over examples: an answer of a word counts as a description does."""
    counted = (batch["targets"] != IGNORE) & batch["valid"][TASK][:, None]
    each = (outputs["nll"] * counted).sum(1) / jnp.maximum(counted.sum(1), 1)
    return {TASK: {"nll": each.sum(), "tokens": counted.any(1).sum().astype(jnp.float32)}}


def constant(train: Texts, held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Always the most frequent token, and always the most frequent target."""

    def targets(texts: Texts, seed: int, count: int) -> list[tuple[int, ...]]:
        batches = (texts.batch(seed, i, range(texts.batch_size))["targets"] for i in range(count))
        return [tuple(row[row != IGNORE]) for batch in batches for row in batch]

    seen, asked = targets(train, held_out.seed, SAMPLED), targets(held_out.texts, held_out.seed, len(held_out))
    most, _ = Counter(token for target in seen for token in target).most_common(1)[0]
    target, _ = Counter(seen).most_common(1)[0]
    tokens = np.array([token for target in asked for token in target])
    return {TASK: {"accuracy": float((tokens == most).mean()), "exact": float(np.mean([of == target for of in asked]))}}


def artifacts(
    spec: BartSpec, tokenizer: BartTokenizer, variables: Mapping, folder: Path, meta: Mapping[str, Any]
) -> Sequence[str]:
    """The model in half precision, as a Hugging Face folder `bart`: what later runs start from."""
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), variables["params"])
    save_bart(folder / "bart", spec, half)
    tokenizer.save(folder / "bart")
    return ("bart",)

"""Pretraining a language model on texts about the micro-world: where the embedded `microworld` model comes from.

It never sees an instruction, nor the forms of the tasks. A run writes its model as a Hugging Face folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.config import Config
from mtlora_jax.engine.mesh import parts_of_batch
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.errors import UserError
from mtlora_jax.input.loader import InOrder, batches_of
from mtlora_jax.input.protocols import Examples
from mtlora_jax.language.loss import mean_loss, perplexity_sums, token_losses
from mtlora_jax.language.packing import IGNORE
from mtlora_jax.language.tokenizer import Tokenizer, load_tokenizer
from mtlora_jax.text.datasets.microworld import World, plain_text
from mtlora_jax.text.llama import Llama, LlamaSpec, head_of, init
from mtlora_jax.text.llama_weights import save_llama
from mtlora_jax.weights.hub import shipped

TASK = "text"
"""The one objective."""
HELD_OUT = 1 << 32
"""Where the numbers of held-out rows begin."""


@dataclass(frozen=True)
class TextPretrainConfig(Config):
    """Next-token prediction on documents of the micro-world.

    Attributes:
      model: the decoder's shape; the tokenizer's vocabulary sets its own.
      length: L, tokens a row; documents are packed, none sees another.
      world: seed of the micro-world's facts.
      train_length, val_length: rows per split.
      dtype: compute dtype.
    """

    model: LlamaSpec = field(default_factory=LlamaSpec)
    length: int = 256
    world: int = 0
    train_length: int = 1 << 20
    val_length: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"

    def validate(self) -> None:
        super().validate()
        if problem := self.model.problems():
            raise UserError(f"model: {problem}")


@dataclass(frozen=True)
class Documents(Examples):
    """Rows of whole documents one after the other, the last cut off, each row a function of its number."""

    world: World
    tokenizer: Tokenizer
    rows: int
    length: int
    seed: int
    first: int = 0

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, self.first + index]))
        tokens, segments, segment = [], [], 0
        while len(tokens) <= self.length:
            segment += 1
            ids = [self.tokenizer.bos, *self.tokenizer.encode(plain_text(self.world, rng)), self.tokenizer.eos]
            tokens += ids
            segments += [segment] * len(ids)
        tokens, segments = np.array(tokens, np.int32), np.array(segments, np.int32)
        inside = segments[1:] == segments[:-1]
        return {
            "tokens": tokens[: self.length],
            "targets": np.where(inside, tokens[1:], IGNORE)[: self.length].astype(np.int32),
            "segment_ids": segments[: self.length],
            "valid": {TASK: np.bool_(True)},
            "id": np.int64(index),
        }


def make_workload(config: TextPretrainConfig) -> Workload:
    model = Llama(config.model, dtype=jnp.dtype(config.dtype))
    tokenizer = load_tokenizer(shipped("microworld"))
    world = World(config.world)

    def abstract_batch(batch_size: int) -> dict:
        tokens = jax.ShapeDtypeStruct((batch_size, config.length), np.int32)
        valid = jax.ShapeDtypeStruct((batch_size,), np.bool_)
        return {"tokens": tokens, "targets": tokens, "segment_ids": tokens, "valid": {TASK: valid}}

    def opened(split: str) -> Documents:
        rows, first = (config.train_length, 0) if split == "train" else (config.val_length, HELD_OUT)
        return Documents(world, tokenizer, rows, config.length, config.seed, first)

    def forward(variables: Mapping, batch: Mapping, key: jax.Array | None):
        hidden = model.apply(variables, batch["tokens"], segment_ids=batch["segment_ids"], method="hidden")
        head, vocab_size = head_of(model, variables), model.spec.vocab_size
        return token_losses(head, vocab_size, hidden, batch["targets"], parts_of_batch()), {}

    def counted(batch: Mapping) -> jax.Array:
        return (batch["targets"] != IGNORE) & batch["valid"][TASK][:, None]

    def measure(outputs: Mapping, batch: Mapping) -> dict:
        loss_mask = batch["targets"] != IGNORE
        right = (outputs["prediction"] == batch["targets"]) & loss_mask
        return {TASK: {"right": right.sum(1), "tokens": loss_mask.sum(1)}}

    return Workload(
        objectives={
            TASK: Objective(
                weight=1.0,
                finish=mean_loss,
                compute=lambda sums: {"accuracy": float(sums["right"] / max(sums["tokens"], 1))},
                score="accuracy",
                higher_is_better=True,
            )
        },
        abstract_batch=abstract_batch,
        init=partial(init, model),
        load_base=lambda: None,
        forward=forward,
        sums=lambda outputs, batch: {TASK: perplexity_sums(outputs["nll"], counted(batch))},
        measure=measure,
        table=((r"^params/.*/(scale|bias)$", "no_decay"), (r"^params/", "decay")),
        train_batches=lambda batch_size: batches_of(opened("train"), batch_size),
        held_out=lambda batch_size: InOrder(opened("val"), batch_size),
        constant=lambda: constant(opened("train"), opened("val")),
        artifacts=partial(artifacts, config.model),
    )


def constant(train: Documents, held_out: Documents) -> dict[str, dict[str, float]]:
    """Always the most frequent token."""
    seen = np.concatenate([train[i]["targets"] for i in range(len(held_out))])
    most = np.bincount(seen[seen != IGNORE]).argmax()
    targets = np.concatenate([held_out[i]["targets"] for i in range(len(held_out))])
    return {TASK: {"accuracy": float((targets[targets != IGNORE] == most).mean())}}


def artifacts(spec: LlamaSpec, variables: Mapping, folder: Path, meta: Mapping[str, Any]) -> Sequence[str]:
    """The model in half precision, as a Hugging Face folder `llama`: what later runs start from."""
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), variables["params"])
    save_llama(folder / "llama", spec, half)
    return ("llama",)

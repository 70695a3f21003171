"""Multi-task language modelling as the engine sees it."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mtlora_jax.engine.mesh import parts_of_batch
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.language.corpus import Corpus
from mtlora_jax.language.loss import mean_loss, perplexity_sums, token_losses
from mtlora_jax.language.packing import IGNORE
from mtlora_jax.language.sites import Table
from mtlora_jax.language.sites import axes as site_axes
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.examples import held_out, open_corpus, train_batches
from mtlora_jax.text.llama import INTO, OUT_OF, SITES, Llama, LlamaSpec, head_of, init
from mtlora_jax.text.quantized import check_widths
from mtlora_jax.text.scoring import protocols
from mtlora_jax.text.source import ADAPTER_FILE, identity, leaves_for, source_of, write_adapter

NOTE = (
    "accuracy: the share of held-out answers of which every token is the likeliest after the true ones before it; "
    "eval.py --protocol generate scores what is written freely"
)
PLAIN = "plain/perplexity"
"""One of each task, which tables leave out for their mean; see `text.plain`."""


def axes(spec: LlamaSpec, adapters: Table) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Logical axes of a decoder's leaves."""
    return (
        (r"embed_tokens/embedding$", ("vocab", "embed")),
        *(() if spec.tied else ((r"lm_head/kernel$", ("embed", "vocab")),)),
        *(((rf"/({INTO})/bias$", ("inner",)),) if spec.qkv_bias or spec.mlp_bias else ()),
        *site_axes(adapters, SITES, INTO, OUT_OF),
    )


def spec_of(config: TextConfig) -> LlamaSpec:
    """The decoder's shape: the pretrained model's, else the config's."""
    source = source_of(config.init_from)
    return config.model if source is None else source.spec


def make_model(config: TextConfig) -> Llama:
    """Raises UserError for widths that `quantize` cannot divide into blocks."""
    adapters = () if config.adapter is None else config.adapter.table(tuple(config.tasks))
    spec = spec_of(config)
    check_widths(spec, config.quantize)
    shape = {"reach": config.cutoff if config.pack else 0, "remat": config.remat, "quantize": config.quantize}
    return Llama(spec, adapters, dtype=jnp.dtype(config.dtype), **shape)


def make_workload(config: TextConfig) -> Workload:
    """The functions of a `TextConfig`."""
    model, names = make_model(config), tuple(config.tasks)
    forms: dict[str, str] = {}
    opened = cache(partial(open_corpus, config, forms=forms))
    return Workload(
        objectives={
            name: Objective(task.weight, mean_loss, scores, "accuracy", higher_is_better=True)
            for name, task in config.tasks.items()
        },
        abstract_batch=partial(abstract_batch, config),
        init=partial(init, model),
        load_base=partial(leaves_for, config.adapter, config.init_from, config.init_only, config.quantize),
        forward=partial(forward, model),
        sums=partial(sums, names),
        measure=partial(measure, names),
        total=partial(total, {name: task.weight for name, task in config.tasks.items()}),
        table=table(config),
        train_batches=lambda batch_size: train_batches(config, opened("train"), batch_size),
        held_out=lambda batch_size: held_out(config, opened("val"), batch_size),
        constant=lambda: constant(opened("train"), opened("val")),
        artifacts=partial(artifacts, config),
        overall=average,
        axes=axes(model.spec, model.adapters),
        about=lambda: {"forms": dict(forms)},
        identity=identity(model.spec),
        notes=(NOTE,),
        protocols=protocols(config, model, partial(forward, model)),
    )


def artifacts(config: TextConfig, variables: Mapping, workdir: Path, meta: Mapping) -> Sequence[str]:
    """Writes `adapter.safetensors`: the adapters, what they are, and the base they belong to."""
    source = source_of(config.init_from)
    if config.train_base or source is None or source.base is None:
        reason = "the base was trained too" if config.train_base else "the base was drawn from the seed"
        tqdm.write(f"no adapter.safetensors: {reason}, and lies in this run alone; convert takes the run", sys.stderr)
        return ()
    path, rest = workdir / ADAPTER_FILE, {key: value for key, value in meta.items() if key != "base"}
    about = {"template": config.template, "quantize": config.quantize, **rest}
    write_adapter(path, variables["lora"], config.adapter, tuple(config.tasks), source.base, meta["base"], **about)
    return (ADAPTER_FILE,)


def average(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over tasks of the metric that stands for each, and of the perplexity of plain text (geometric)."""
    first = [next(value for name, value in of.items() if name != "loss") for of in metrics.values()]
    found = {"average": float(np.mean(first))}
    if plain := [of[PLAIN] for of in metrics.values() if PLAIN in of]:
        found["perplexity of plain text"] = float(np.exp(np.mean(np.log(plain))))
    return found


def table(config: TextConfig) -> tuple[tuple[str, str], ...]:
    """What trains: adapters, and with `train_base` everything."""
    base = ((r"^params/.*/(scale|bias)$", "no_decay"), (r"^params/", "decay"))
    adapters = () if config.adapter is None else ((r"^lora/", "decay"),)
    return (*adapters, *(base if config.train_base else ((r"^params/", "frozen"),)))


def abstract_batch(config: TextConfig, batch_size: int) -> dict:
    length = config.pack or (config.buckets or (config.cutoff,))[-1]
    tokens = jax.ShapeDtypeStruct((batch_size, length), np.int32)
    return {
        "tokens": tokens,
        "targets": tokens,
        "segment_ids": tokens,
        "task_id": tokens if config.pack else jax.ShapeDtypeStruct((batch_size,), np.int32),
        "valid": {name: jax.ShapeDtypeStruct((batch_size,), np.bool_) for name in config.tasks},
    }


def forward(model: Llama, variables: Mapping, batch: Mapping, key: jax.Array | None):
    """The loss (`nll`) and the greedy `prediction` of every position."""
    hidden = model.apply(
        variables,
        batch["tokens"],
        segment_ids=batch["segment_ids"],
        task_id=batch["task_id"],
        train=key is not None,
        method="hidden",
        rngs=None if key is None else {"dropout": key},
    )
    head, vocab_size = head_of(model, variables), model.spec.vocab_size
    return token_losses(head, vocab_size, hidden, batch["targets"], parts_of_batch()), {}


def answers(batch: Mapping) -> jax.Array:
    """Which rows are asked for an answer, `[B]` bool: all that are not plain text."""
    return ~batch["plain"] if "plain" in batch else jnp.ones(len(batch["tokens"]), bool)


def sums(names: tuple[str, ...], outputs: Mapping, batch: Mapping) -> dict[str, dict[str, jax.Array]]:
    """Every task's summed loss and counted tokens, of rows that are valid for it."""
    task_id = batch["task_id"] if batch["task_id"].ndim == 2 else batch["task_id"][:, None]
    loss_mask = (batch["targets"] != IGNORE) & answers(batch)[:, None]
    return {
        name: perplexity_sums(outputs["nll"], loss_mask & (task_id == t) & batch["valid"][name][:, None])
        for t, name in enumerate(names)
    }


def total(weights: Mapping[str, float], losses: Mapping, sums: Mapping) -> jax.Array:
    """The mean over all counted tokens of the batch, whatever their task, as published; weighted by task."""
    nll = sum(weights[name] * of["nll"] for name, of in sums.items())
    return nll / jnp.maximum(sum(weights[name] * of["tokens"] for name, of in sums.items()), 1e-9)


def measure(names: tuple[str, ...], outputs: Mapping, batch: Mapping) -> dict[str, dict[str, jax.Array]]:
    """Of every row, one example each: whether greedy decoding would give its answer to the letter, or the loss of its
    plain text."""
    loss_mask, asked = batch["targets"] != IGNORE, answers(batch)
    exact = ((outputs["prediction"] == batch["targets"]) | ~loss_mask).all(1) & asked
    statistics = {"exact": exact, "examples": asked}
    if "plain" in batch:
        plain = batch["plain"]
        statistics |= {"nll": outputs["nll"].sum(1) * plain, "tokens": loss_mask.sum(1) * plain}
    return dict.fromkeys(names, statistics)


def scores(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """`accuracy`; and where there is plain text, its perplexity under the task's adapters."""
    plain = {PLAIN: float(np.exp(sums["nll"] / sums["tokens"]))} if sums.get("tokens", 0) else {}
    return {"accuracy": float(sums["exact"] / max(sums["examples"], 1)), **plain}


def constant(train: Corpus, held_out: Corpus) -> dict[str, dict[str, float]]:
    """Every task's most frequent answer, always."""
    seen, asked = train.answers(), held_out.answers()
    return {
        name: {"accuracy": Counter(asked[name])[Counter(seen[name]).most_common(1)[0][0]] / max(len(asked[name]), 1)}
        for name in train.tasks
    }

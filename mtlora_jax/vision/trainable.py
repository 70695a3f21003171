"""What trains, as an ordered table of (path regex, label): the reference's freezing rules for MTLoRA on Swin.

Labels: `decay` and `no_decay` train with and without weight decay, `frozen` does not train, and `unused` counts as
trainable in the reference but never gets a gradient, so it is neither updated nor decayed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec

Table = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trainable:
    """Which backbone leaves train beside the adapters. Projections and heads always do.

    Attributes:
      all: the whole backbone (full fine-tuning).
      patch_embed: patch embedding, its norm included.
      norms: every LayerNorm, the patch embedding's included.
      bias_tables: relative position biases.
      reduction: patch merging's kernel; it stays frozen where it carries an adapter (MTLoRA+).
      biases: `all` trains every bias of the backbone as well (BitFit).
    """

    all: bool = False
    patch_embed: bool = True
    norms: bool = True
    bias_tables: bool = True
    reduction: bool = True
    biases: Literal["none", "all"] = "none"


NOTHING = Trainable(patch_embed=False, norms=False, bias_tables=False, reduction=False)
"""Decoders only."""


def table(spec: SwinSpec, placement: Placement | None, trainable: Trainable, tasks: tuple[str, ...]) -> Table:
    """The rows for one model; the first that matches a path `collection/module/.../leaf` gives its label."""
    adapted_reduction = placement is not None and placement.reduction
    backbone = "^params/backbone/"
    rows: list[tuple[str | None, str]] = [
        *((row, "unused") for row in _unused(spec, placement, tasks)),
        (r"^params/heads_\w+/unused/", "unused"),
        (r"^(lora|params/backbone)/.*(?<!\w)(norm_scale|norm_bias|\w+_scale)$", "no_decay"),
        (r"^lora/", "decay"),
        (r"^params/(heads_|projections).*/(bias|scale)$", "no_decay"),
        (r"^params/(heads_|projections)", "decay"),
        (rf"{backbone}.*/(bias|scale)$" if trainable.all or trainable.biases == "all" else None, "no_decay"),
        (backbone if trainable.all else None, "decay"),
        (rf"{backbone}patch_embed/.*(bias|scale)$" if trainable.patch_embed else None, "no_decay"),
        (rf"{backbone}patch_embed/" if trainable.patch_embed else None, "decay"),
        (rf"{backbone}.*norm\d?/(bias|scale)$" if trainable.norms else None, "no_decay"),
        (
            rf"{backbone}.*/reduction/kernel$" if trainable.reduction and not adapted_reduction else None,
            "decay",
        ),
        (rf"{backbone}.*/relative_position_bias_table$" if trainable.bias_tables else None, "decay"),
        (backbone, "frozen"),
    ]
    return tuple((row, label) for row, label in rows if row is not None)


def _unused(spec: SwinSpec, placement: Placement | None, tasks: tuple[str, ...]) -> list[str]:
    """Leaves no output depends on, layer by layer."""
    rows = []
    for stage, depth in enumerate(spec.depths if placement is not None else ()):
        for block in range(depth):
            last = block == depth - 1
            end = last and stage == spec.stages - 1
            for layer in ("proj", "fc1", "fc2"):
                adapter = placement.spec(layer, stage, last, tasks)
                if adapter is not None and adapter.tasks:
                    leaves = _unread(placement, layer, last, end, tasks)
                    rows += [rf"^lora/backbone/layers_{stage}/blocks_{block}/\w+/{layer}/{names}" for names in leaves]
    return rows


def _unread(placement: Placement, layer: str, last: bool, end: bool, tasks: tuple[str, ...]) -> Iterator[str]:
    """Regexes of the leaves that nothing reads, in a layer with task updates; `end` is the backbone's last block."""
    streams = last and placement.fc2
    if placement.mode == "addition":
        yield "shared_scale$"
    elif not streams:
        yield f"({'|'.join(tasks)})_(A|B|scale)$"
    # Past the last block nobody reads the shared stream; a layer that takes every frozen product of the task's own
    # stream reads it no earlier. In matrixv2 tasks read the shared update itself.
    ignored = layer == "fc2" or (placement.task_base == "per_task" and (layer == "fc1" or placement.fc1))
    if end and streams and ignored and placement.mode != "matrixv2":
        yield "(shared|norm)_"


def owner_rows(tasks: tuple[str, ...]) -> Table:
    """Which task alone reads a leaf; leaves that match no row belong to all."""
    return tuple(
        (
            rf"(^params/(projections/|heads_){task}/|^batch_stats/heads_{task}/|^lora/.*/{task}_(A|B|scale|delta)$)",
            task,
        )
        for task in tasks
    )

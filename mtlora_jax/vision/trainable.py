"""What trains, as an ordered table of (path regex, label): the reference's freezing rules for MTLoRA on Swin.

Labels: `decay` and `no_decay` train with and without weight decay, `frozen` does not train. Leaves that train and that
no loss depends on are found by the engine (`engine.program`): they are neither updated nor decayed.
"""

import re
from dataclasses import dataclass
from typing import Literal

from mtlora_jax.vision.placement import Placement

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


def table(placement: Placement | None, trainable: Trainable) -> Table:
    """The rows for one model; the first that matches a path `collection/module/.../leaf` gives its label."""
    rows = [(r"^params/(heads_|projections).*/(bias|scale)$", "no_decay"), (r"^params/(heads_|projections)", "decay")]
    if placement is not None:
        rows += [(r"^lora/.*/(norm_scale|norm_bias)$", "no_decay")] * (placement.mode == "addition")
        rows += [(r"^lora/.*/shared_scale$", "no_decay")] * placement.trainable_scale
        rows += [(r"^lora/.*/tasks/[^/]+/scale$", "no_decay")] * placement.trainable_task_scales
        rows += [("^lora/", "decay")]
    return (*rows, *_backbone_rows(trainable, adapted_reduction=placement is not None and placement.reduction))


def _backbone_rows(trainable: Trainable, adapted_reduction: bool) -> Table:
    backbone = "^params/backbone/"
    if trainable.all:
        return (rf"{backbone}.*/(bias|scale)$", "no_decay"), (backbone, "decay")
    rows = [(rf"{backbone}.*/bias$", "no_decay")] * (trainable.biases == "all")
    if trainable.patch_embed:
        rows += [(rf"{backbone}patch_embed/.*(bias|scale)$", "no_decay"), (rf"{backbone}patch_embed/", "decay")]
    rows += [(rf"{backbone}.*norm\d?/(bias|scale)$", "no_decay")] * trainable.norms
    rows += [(rf"{backbone}.*/reduction/kernel$", "decay")] * (trainable.reduction and not adapted_reduction)
    rows += [(rf"{backbone}.*/relative_position_bias_table$", "decay")] * trainable.bias_tables
    return (*rows, (backbone, "frozen"))


def owner_rows(tasks: tuple[str, ...]) -> Table:
    """Which task alone reads a projection or a head; adapter leaves say it by their path."""
    return tuple((rf"^(params|batch_stats)/(projections/|heads_){re.escape(task)}/", task) for task in tasks)

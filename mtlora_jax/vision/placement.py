"""Where MTLoRA puts its adapters in a Swin backbone (CVPR 2024, section 3.3): which layer, which rank, which tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mtlora_jax.adapters import Full, MTLoRA, Spec
from mtlora_jax.adapters.methods.mtlora import Mode, TaskBase

Layer = Literal["qkv", "proj", "fc1", "fc2", "reduction"]
PerStage = tuple[float, ...]


@dataclass(frozen=True)
class Placement:
    """MTLoRA's hyper-parameters for a whole backbone. Per-stage tuples have one entry per stage, or one for all.

    The shared update sits in every enabled layer; task updates only in the last block of a stage, on proj, fc1
    and fc2, never on qkv or patch merging.

    Attributes:
      shared_rank: R of the shared update; 0 leaves a stage's layers plain, task updates included.
      task_rank: `{task: ranks}`; a task not named gets the shared ranks.
      shared_scale: plain multiplier of the shared update.
      task_scale: `{task: scales}`; a task not named gets the shared scales.
      dropout: probability of dropping an entry of the adapters' input while training.
      mode: how the shared and the task updates combine (see `mtlora_jax.adapters.methods.mtlora`).
      task_base: the stream whose frozen product a task takes; `shared` is the published form.
      trainable_scale, trainable_task_scales: scales as leaves.
      qkv, proj, fc1, fc2: which layers of a block are adapted.
      reduction: adapt patch merging as well and freeze its kernel, which is MTLoRA+.
      split_qkv: three adapters, for q, k and v, instead of one for the fused projection.
      every_block: task updates in every block (the reference's intermediate specialization). Their outputs are
        dropped except in last blocks, so outside mode `addition` this changes no result.
      task_residual: where proj is not adapted the published task streams lose the residual (`published`); `kept`
        mends that.
    """

    shared_rank: tuple[int, ...] = (16,)
    task_rank: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    shared_scale: PerStage = (4.0,)
    task_scale: Mapping[str, PerStage] = field(default_factory=dict)
    dropout: PerStage = (0.05,)
    mode: Mode = "matrix"
    task_base: TaskBase = "shared"
    trainable_scale: bool = False
    trainable_task_scales: bool = False
    qkv: bool = True
    proj: bool = True
    fc1: bool = True
    fc2: bool = True
    reduction: bool = False
    split_qkv: bool = False
    every_block: bool = False
    task_residual: Literal["published", "kept"] = "published"

    def __hash__(self):
        fields = (tuple(v.items()) if isinstance(v, Mapping) else v for v in vars(self).values())
        return hash(tuple(fields))

    def spec(self, layer: Layer, stage: int, last: bool, tasks: tuple[str, ...]) -> Spec | None:
        """The adapter of one layer, or None for a plain one.

        Args:
          layer: the layer's kind.
          stage: index of the stage.
          last: whether its block is the stage's last.
          tasks: the model's tasks, in stream order.
        """
        rank = int(at(self.shared_rank, stage))
        if rank == 0 or not getattr(self, layer):
            return None
        with_tasks = layer in ("proj", "fc1", "fc2") and (last or self.every_block)
        return MTLoRA(
            rank=rank,
            scale=at(self.shared_scale, stage),
            tasks=tasks if with_tasks else (),
            task_ranks=tuple(int(at(self.task_rank.get(t, self.shared_rank), stage)) for t in tasks)
            if with_tasks
            else (),
            task_scales=tuple(at(self.task_scale.get(t, self.shared_scale), stage) for t in tasks)
            if with_tasks
            else (),
            mode=self.mode,
            dropout=at(self.dropout, stage),
            trainable_scale=self.trainable_scale,
            trainable_task_scales=self.trainable_task_scales,
            task_base=self.task_base,
        )


class Folded(Placement):
    """A placement of which all that merges exactly has been merged into the kernels: see `mtlora_jax.vision.fold`."""

    def spec(self, layer: Layer, stage: int, last: bool, tasks: tuple[str, ...]) -> Spec | None:
        """What folding leaves of a layer's adapter; arguments as in `Placement.spec`."""
        spec = super().spec(layer, stage, last, tasks)
        read_on = (last and self.fc2) or self.mode == "addition"
        if spec is None or not spec.tasks or not read_on:
            return None
        return Full(spec.tasks) if self.task_base == "per_task" and self.mode != "addition" else spec


def at(per_stage: tuple, stage: int):
    """A per-stage value; one entry stands for all stages."""
    return per_stage[0] if len(per_stage) == 1 else per_stage[stage]

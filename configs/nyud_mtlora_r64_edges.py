"""MTLoRA on NYUDv2 with edges as a fourth task, shared rank 64.

    python train.py --config configs/nyud_mtlora_r64_edges.py --data.root=NYUD_MT

Differs from `nyud_mtlora_r64` in having one task more, for which no single-task score is known: there is no Δm.
8,358,687 of 34,276,959 parameters train.

There are no published metrics of this set of tasks that we know of.
"""

from dataclasses import replace

from configs.nyud_mtlora_r64 import get_config as parent
from mtlora_jax.vision.config import TaskConfig, VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    return replace(
        config,
        name="nyud_mtlora_r64_edges",
        placement=replace(config.placement, task_rank={**config.placement.task_rank, "edges": (4,)}),
        tasks={**config.tasks, "edges": TaskConfig(weight=50.0)},
        baselines=(),
    )

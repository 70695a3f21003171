"""MTLoRA+ on PASCAL-Context, rank 8 for every update, shared or of a task.

    python train.py --config configs/pascal_mtlora_plus_r8_all.py --data.root=PASCAL_MT

Differs from `pascal_mtlora_plus_r16` in the ranks.
3,148,346 of 30,614,906 parameters train.

Its published accuracy is not known to us.
"""

from dataclasses import replace

from configs.pascal_mtlora_plus_r16 import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    placement = replace(config.placement, shared_rank=(8,), task_rank={})
    return replace(config, name="pascal_mtlora_plus_r8_all", placement=placement)

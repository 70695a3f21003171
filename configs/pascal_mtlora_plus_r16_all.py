"""MTLoRA+ on PASCAL-Context, rank 16 for every update, shared or of a task.

    python train.py --config configs/pascal_mtlora_plus_r16_all.py --data.root=PASCAL_MT

Differs from `pascal_mtlora_plus_r16` in the ranks.
4,298,810 of 31,765,370 parameters train.

Its published accuracy is not known to us.
"""

from dataclasses import replace

from configs.pascal_mtlora_plus_r16 import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    placement = replace(config.placement, shared_rank=(16,), task_rank={})
    return replace(config, name="pascal_mtlora_plus_r16_all", placement=placement)

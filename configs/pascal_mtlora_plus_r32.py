"""MTLoRA+ on PASCAL-Context, shared rank 32, rank 4 for each task.

    python train.py --config configs/pascal_mtlora_plus_r32.py --data.root=PASCAL_MT

Differs from `pascal_mtlora_r32` in patch merging: its kernel is frozen and carries an adapter, instead of training.
4,664,378 of 32,130,938 parameters train.

Its published accuracy is not known to us.
"""

from dataclasses import replace

from configs.pascal_mtlora_r32 import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    placement = replace(config.placement, reduction=True)
    return replace(config, name="pascal_mtlora_plus_r32", placement=placement)

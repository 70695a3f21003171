"""MTLoRA+ on PASCAL-Context, shared rank 64, rank 4 for each task.

    python train.py --config configs/pascal_mtlora_plus_r64.py --data.root=PASCAL_MT

Differs from `pascal_mtlora_r64` in patch merging: its kernel is frozen and carries an adapter, instead of training.
7,054,394 of 34,520,954 parameters train.

Its published accuracy is not known to us.
"""

from dataclasses import replace

from configs.pascal_mtlora_r64 import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    placement = replace(config.placement, reduction=True)
    return replace(config, name="pascal_mtlora_plus_r64", placement=placement)

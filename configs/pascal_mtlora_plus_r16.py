"""MTLoRA+ on PASCAL-Context, shared rank 16, rank 4 for each task.

    python train.py --config configs/pascal_mtlora_plus_r16.py --data.root=PASCAL_MT

Differs from `pascal_mtlora_r16` in patch merging: its kernel is frozen and carries an adapter, instead of training.
3,469,370 of 30,935,930 parameters train.

Its published accuracy is not known to us.
"""

from dataclasses import replace

from configs.pascal_mtlora_r16 import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    placement = replace(config.placement, reduction=True)
    return replace(config, name="pascal_mtlora_plus_r16", placement=placement)

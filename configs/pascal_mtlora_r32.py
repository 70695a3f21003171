"""MTLoRA on PASCAL-Context, shared rank 32.

    python train.py --config configs/pascal_mtlora_r32.py --data.root=PASCAL_MT

Differs from `pascal_mtlora` in the rank of the shared updates: 32, in every stage.
6,083,642 of 32,001,914 parameters train (the paper has 6.08 M).

Published (Table 1; a secondary source): semseg 67.74 mIoU, human parts 59.46 mIoU, saliency 64.90 mIoU, normals 16.59
(the mean angle), Δm +2.16.
"""

from dataclasses import replace

from configs.pascal_mtlora import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    placement = replace(config.placement, shared_rank=(32,))
    return replace(config, name="pascal_mtlora_r32", placement=placement)

"""MTLoRA on PASCAL-Context, shared rank 16.

    python train.py --config configs/pascal_mtlora_r16.py --data.root=PASCAL_MT

Differs from `pascal_mtlora` in the rank of the shared updates: 16, in every stage.
4,953,146 of 30,871,418 parameters train (the paper has 4.95 M).

Published (Table 1; a secondary source): semseg 68.19 mIoU, human parts 58.99 mIoU, saliency 64.48 mIoU, normals 17.03
(the mean angle), Δm +1.35.
"""

from dataclasses import replace

from configs.pascal_mtlora import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    placement = replace(config.placement, shared_rank=(16,))
    return replace(config, name="pascal_mtlora_r16", placement=placement)

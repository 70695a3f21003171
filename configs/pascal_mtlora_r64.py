"""MTLoRA on PASCAL-Context, shared rank 64.

    python train.py --config configs/pascal_mtlora_r64.py --data.root=PASCAL_MT

Differs from `pascal_mtlora` in nothing but its name: rank 64 is the parent's.
8,344,634 of 34,262,906 parameters train (the paper has 8.34 M).

Published (Table 1; a secondary source): semseg 67.90 mIoU, human parts 59.84 mIoU, saliency 65.40 mIoU, normals 16.60
(the mean angle), Δm +2.55.
"""

from dataclasses import replace

from configs.pascal_mtlora import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    return replace(parent(), name="pascal_mtlora_r64")

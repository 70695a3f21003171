"""Decoders only on PASCAL-Context: a frozen Swin-T, nothing of it trained.

    python train.py --config configs/pascal_decoders.py --data.root=PASCAL_MT

Differs from `pascal_mtlora` in having no adapters and the whole backbone frozen.
1,946,624 of 29,464,442 parameters train (the paper has 1.94 M).

Published (Table 1; recalled from the paper, not checked): semseg 65.09 mIoU, human parts 53.48 mIoU, saliency 57.46
mIoU, normals 20.69 (the mean angle), Δm -9.95.
"""

from dataclasses import replace

from configs.pascal_mtlora import get_config as parent
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.trainable import NOTHING


def get_config() -> VisionConfig:
    return replace(parent(), name="pascal_decoders", placement=None, trainable=NOTHING)

"""Full fine-tuning on PASCAL-Context: one plain Swin-T for all tasks, the whole of it trained.

    python train.py --config configs/pascal_full.py --data.root=PASCAL_MT

Differs from `pascal_mtlora` in having no adapters and nothing frozen.
29,464,442 of 29,464,442 parameters train (the paper has 30.06 M, as if its baselines' decoders were larger).

Published (Table 1; a secondary source): semseg 67.56 mIoU, human parts 60.24 mIoU, saliency 65.21 mIoU, normals 16.64
(the mean angle), Δm +2.23; from these metrics it is +2.44.
"""

from dataclasses import replace

from configs.pascal_mtlora import get_config as parent
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.trainable import Trainable


def get_config() -> VisionConfig:
    return replace(parent(), name="pascal_full", placement=None, trainable=Trainable(all=True))

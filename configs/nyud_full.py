"""Full fine-tuning on NYUDv2: one plain Swin-T for all tasks, the whole of it trained.

    python train.py --config configs/nyud_full.py --data.root=NYUD_MT

Differs from `nyud_mtlora_r64` in having no adapters and nothing frozen.
28,999,406 of 28,999,406 parameters train.

By the same protocol (restated in a later paper; a secondary source): 38.85 mIoU, depth 0.66 rmse, normals 24.33,
Δm -8.49, 28.10 M parameters.
"""

from dataclasses import replace

from configs.nyud_mtlora_r64 import get_config as parent
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.trainable import Trainable


def get_config() -> VisionConfig:
    return replace(parent(), name="nyud_full", placement=None, trainable=Trainable(all=True))

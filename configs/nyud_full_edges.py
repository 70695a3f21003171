"""Full fine-tuning on NYUDv2: one plain Swin-T for all tasks, edges among them, the whole of it trained.

    python train.py --config configs/nyud_full_edges.py --data.root=NYUD_MT

Differs from `nyud_mtlora_r64_edges` in having no adapters and nothing frozen.
29,478,495 of 29,478,495 parameters train.

There are no published metrics of this set of tasks that we know of.
"""

from dataclasses import replace

from configs.nyud_mtlora_r64_edges import get_config as parent
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.trainable import Trainable


def get_config() -> VisionConfig:
    return replace(parent(), name="nyud_full_edges", placement=None, trainable=Trainable(all=True))

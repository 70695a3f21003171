"""Single-task fine-tuning on PASCAL-Context: a Swin-T for semseg alone, what Δm is measured against.

    python train.py --config configs/pascal_single_semseg.py --data.root=PASCAL_MT

Differs from `pascal_full` in having one task.
28,018,527 of 28,018,527 parameters train (the paper has 112.62 M for all four; ours are 112.02 M).

Published (Table 1; a secondary source): 67.21 mIoU.
"""

from dataclasses import replace

from configs.pascal_full import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    return replace(config, name="pascal_single_semseg", tasks={"semseg": config.tasks["semseg"]})

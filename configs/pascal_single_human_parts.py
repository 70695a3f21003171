"""Single-task fine-tuning on PASCAL-Context: a Swin-T for human_parts alone, what Δm is measured against.

    python train.py --config configs/pascal_single_human_parts.py --data.root=PASCAL_MT

Differs from `pascal_full` in having one task.
28,003,393 of 28,003,393 parameters train (the paper has 112.62 M for all four; ours are 112.02 M).

As published, images without people are left out where human parts are the only task.

Published (Table 1; a secondary source): 61.93 mIoU.
"""

from dataclasses import replace

from configs.pascal_full import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    return replace(config, name="pascal_single_human_parts", tasks={"human_parts": config.tasks["human_parts"]})

"""Single-task fine-tuning on PASCAL-Context: a Swin-T for saliency alone, what Δm is measured against.

    python train.py --config configs/pascal_single_saliency.py --data.root=PASCAL_MT

Differs from `pascal_full` in having one task.
27,996,907 of 27,996,907 parameters train (the paper has 112.62 M for all four; ours are 112.02 M).

Published (Table 1; a secondary source): 62.35 mIoU.
"""

from dataclasses import replace

from configs.pascal_full import get_config as parent
from mtlora_jax.vision.config import VisionConfig


def get_config() -> VisionConfig:
    config = parent()
    return replace(config, name="pascal_single_saliency", tasks={"saliency": config.tasks["saliency"]})

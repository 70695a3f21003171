"""MTLoRA on NYUDv2: semantic segmentation, normals and depth, shared rank 64.

    python train.py --config configs/nyud_mtlora_r64.py --data.root=NYUD_MT

Differs from `pascal_mtlora` in data, augmentation and tasks, and in the length of an epoch: 24 updates.
7,810,478 of 33,728,750 parameters train.

The paper has no metrics on NYUDv2. By the same protocol (restated in a later paper; a secondary source): single tasks
42.65 mIoU, depth 0.60 rmse, normals 22.83; TADFormer r64 40.85, 0.64, 27.48, Δm -10.42.
"""

from dataclasses import replace

from configs.pascal_mtlora import BATCH
from configs.pascal_mtlora import get_config as parent
from mtlora_jax.vision.config import NyudData, TaskConfig, VisionConfig
from mtlora_jax.vision.datasets.nyud import NAMES

EPOCH = 795 // BATCH


def get_config() -> VisionConfig:
    config = parent()
    return replace(
        config,
        name="nyud_mtlora_r64",
        placement=replace(config.placement, task_rank={"semseg": (4,), "normals": (4,), "depth": (4,)}),
        tasks={
            "semseg": TaskConfig(weight=1.0, classes=NAMES),
            "normals": TaskConfig(weight=10.0),
            "depth": TaskConfig(weight=1.0),
        },
        data=NyudData(preset="published"),
        baselines=("nyud_single_task",),
        optim=replace(config.optim, warmup_steps=20 * EPOCH),
        train=replace(config.train, steps=300 * EPOCH, eval_every=5 * EPOCH, checkpoint_every=5 * EPOCH),
    )

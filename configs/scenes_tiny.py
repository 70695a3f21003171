"""MTLoRA on Swin-T, on the embedded scenes: for trying converted weights before the real data.

    python train.py --config configs/scenes_tiny.py --init_from=swin_tiny_patch4_window7_224.pth

Differs from `scenes_mtlora` in the backbone (Swin-T at 224 pixels, window 7, from the hub unless told otherwise), the
paper's decoder widths, rank 64 with 4 per task, a lower learning rate and a smaller batch.
"""

from dataclasses import replace

from configs.scenes_mtlora import get_config as parent
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import swin


def get_config() -> VisionConfig:
    config = parent()
    return replace(
        config,
        name="scenes_tiny",
        backbone=swin("tiny", image_size=224, drop_path=0.2),
        init_from="microsoft/swin-tiny-patch4-window7-224",
        placement=Placement(shared_rank=(64,), task_rank=dict.fromkeys(config.tasks, (4,)), dropout=(0.05,)),
        decoder_channels=(18, 36, 72, 144),
        optim=replace(config.optim, lr=5e-4, lr_min=5e-6, warmup_steps=100),
        train=replace(config.train, steps=2000, batch_size=8, eval_every=500),
    )

"""Everything `scenes_mtlora` does, in a minute: half the resolution, 20 steps, random base weights.

    python train.py --config configs/scenes_smoke.py

Differs from `scenes_mtlora` in size and length alone; for tests, tools and trying things out.
"""

from dataclasses import replace

from configs.scenes_mtlora import get_config as parent
from mtlora_jax.vision.config import ScenesData, VisionConfig
from mtlora_jax.vision.swin import SwinSpec


def get_config() -> VisionConfig:
    config = parent()
    return replace(
        config,
        name="scenes_smoke",
        backbone=SwinSpec(image_size=64, window=4, dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8)),
        init_from=None,
        data=ScenesData(train_length=64, val_length=16),
        decoder_channels=(4, 8, 8, 8),
        train=replace(config.train, steps=20, batch_size=8, eval_every=10, checkpoint_every=5, log_every=5, workers=1),
        optim=replace(config.optim, warmup_steps=5),
    )

"""Six steps of everything about image and text, in seconds: for tests, and for a first look at what a run leaves.

python train.py --config configs/image_text_smoke.py
"""

from dataclasses import replace

from configs.image_text_scenes import get_config as parent
from mtlora_jax.config import Train
from mtlora_jax.image_text.config import ImageTextConfig, ScenesData
from mtlora_jax.image_text.decode import Search


def get_config() -> ImageTextConfig:
    config = parent()
    return replace(
        config,
        name="image_text_smoke",
        adapter=replace(config.adapter, rank=2),
        data=ScenesData(train_images=16, val_images=6, asked=1, val_length=4),
        search=Search(max_length=6),
        train=Train(
            steps=6, batch_size=8, eval_every=3, checkpoint_every=1, log_every=1, workers=0, worker_kind="thread"
        ),
    )

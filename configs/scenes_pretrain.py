"""Pretrains Swin nano by classifying scenes: where the embedded `scenes_nano` weights come from.

    python train.py --config configs/scenes_pretrain.py

Kinds of objects, their counts, colours, ground, sky, light, poses; never a dense label. Writes
`backbone.safetensors`, whose copy in `mtlora_jax/assets/` every scenes recipe starts from.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.vision.pretrain import PretrainConfig
from mtlora_jax.vision.swin import swin


def get_config() -> PretrainConfig:
    return PretrainConfig(
        name="scenes_pretrain",
        backbone=swin("nano"),
        optim=Optim(lr=2e-3, lr_min=1e-5, warmup_steps=200, weight_decay=0.05, clip_norm=1.0),
        train=Train(steps=2500, batch_size=32, eval_every=500, checkpoint_every=250, log_every=20, workers=1),
        train_length=80000,
        val_length=512,
    )

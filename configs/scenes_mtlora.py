"""MTLoRA adapts the embedded Swin nano to six dense tasks at once, on the embedded scenes.

    python train.py --config configs/scenes_mtlora.py

The quickstart: what to read first, and the parent of the other scenes recipes. Loss weights bring the tasks' losses to
one size; the published ones are in `pascal_mtlora`. Adapter dropout is off: five minutes of pictures overfit
nothing.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.vision.config import ScenesData, TaskConfig, VisionConfig
from mtlora_jax.vision.datasets.scenes import CLASSES
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import swin


def get_config() -> VisionConfig:
    return VisionConfig(
        name="scenes_mtlora",
        backbone=swin("nano"),
        init_from="scenes_nano",
        placement=Placement(shared_rank=(16,), dropout=(0.0,)),
        tasks={
            "semseg": TaskConfig(weight=4.0, classes=CLASSES),
            "human_parts": TaskConfig(weight=8.0),
            "saliency": TaskConfig(weight=5.0),
            "normals": TaskConfig(weight=10.0),
            "depth": TaskConfig(weight=1.0),
            "edges": TaskConfig(weight=30.0),
        },
        decoder_channels=(8, 16, 32, 64),
        data=ScenesData(train_length=4096, val_length=128),
        optim=Optim(lr=4e-3, lr_min=4e-5, warmup_steps=30, weight_decay=0.05, clip_norm=5.0),
        train=Train(steps=300, batch_size=16, eval_every=100, log_every=10, workers=1),
    )

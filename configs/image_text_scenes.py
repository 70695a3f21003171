"""MTL-LoRA teaches the embedded BART four tasks about pictures at once, on the embedded scenes.

    python train.py --config configs/image_text_scenes.py

The image-text quickstart, and the parent of the other scenes recipes of its kind. Questions, statements about two
pictures and captions come from the scenes' geometry, features from the embedded Swin.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.image_text.config import ImageTextConfig, ScenesData, TaskConfig
from mtlora_jax.image_text.visual import VisualSpec
from mtlora_jax.language.adapter import Adapter


def get_config() -> ImageTextConfig:
    return ImageTextConfig(
        name="image_text_scenes",
        init_from="scenes_bart",
        visual=VisualSpec(features=288, cells=True),
        adapter=Adapter(
            rank=16,
            alpha=16.0,
            dropout=0.0,
            sites=("(self|encoder)_attn/[qv]_proj",),
            up_projections=2,
            temperature=0.8,
        ),
        # Batches of one task: answers of a word are not padded to the length of captions, one picture not to two.
        tasks={"vqa": TaskConfig(), "gqa": TaskConfig(), "nlvr": TaskConfig(), "caption": TaskConfig(share=2.0)},
        batches="one_task",
        lengths=((24, 8), (24, 40)),
        data=ScenesData(train_images=2048, val_images=128, val_length=256),
        optim=Optim(lr=3e-3, schedule="linear", warmup_steps=50, weight_decay=0.01, clip_norm=5.0),
        train=Train(steps=1600, batch_size=64, eval_every=800, log_every=20, workers=1, worker_kind="thread"),
    )

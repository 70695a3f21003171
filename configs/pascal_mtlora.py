"""MTLoRA on PASCAL-Context as published (CVPR 2024): Swin-T, 448 pixels, four tasks, rank 64. The parent of pascal_*.

    python train.py --config configs/pascal_mtlora.py --data.root=PASCAL_MT

8,344,634 of 34,262,906 parameters train (the paper has 8.34 M).

The recipe, from the reference's code and its authors' answers: ImageNet-1k weights; batch 32 for 300 epochs of 156
updates; AdamW with 0.05 weight decay, none on biases and norms; the learning rate's 5e-4 times 32 / 512, so 3.125e-5,
after 20 epochs of warmup from 3.125e-8, then a cosine to 3.125e-7; gradients clipped to norm 5; drop path 0.2. The
shared rank is 64, that of each task 4, the scale 4, dropout 0.05 on the adapters' input. Metrics are of labels resized
to 448 by 448.

Published (Table 1; a secondary source): semseg 67.90 mIoU, human parts 59.84 mIoU, saliency 65.40 mIoU, normals 16.60
(called rmse; it is the mean angle), Δm +2.55. An independent run with older code: 68.38, 59.58, 63.85, 16.76, Δm +1.77.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.vision.config import PascalData, TaskConfig, VisionConfig
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import swin

BATCH = 32
EPOCH = 4998 // BATCH
"""Updates in an epoch; the reference drops the last, short batch."""
SHARE = BATCH / 512
"""The reference states learning rates for a batch of 512."""


def get_config() -> VisionConfig:
    return VisionConfig(
        name="pascal_mtlora",
        backbone=swin("tiny", image_size=448, drop_path=0.2),
        init_from="microsoft/swin-tiny-patch4-window7-224",
        placement=Placement(
            shared_rank=(64,),
            task_rank={"semseg": (4,), "normals": (4,), "saliency": (4,), "human_parts": (4,)},
            shared_scale=(4.0,),
            dropout=(0.05,),
        ),
        tasks={
            "semseg": TaskConfig(weight=1.0),
            "normals": TaskConfig(weight=10.0),
            "saliency": TaskConfig(weight=5.0),
            "human_parts": TaskConfig(weight=2.0),
        },
        data=PascalData(preset="published"),
        baselines=("pascal_single_task",),
        optim=Optim(
            lr=5e-4 * SHARE,
            lr_warmup=5e-7 * SHARE,
            lr_min=5e-6 * SHARE,
            warmup_steps=20 * EPOCH,
            weight_decay=0.05,
            clip_norm=5.0,
        ),
        train=Train(
            steps=300 * EPOCH,
            batch_size=BATCH,
            eval_every=5 * EPOCH,
            checkpoint_every=EPOCH,
            log_every=20,
            workers=8,
        ),
    )

"""Full fine-tuning of VL-BART on four image-text tasks: what adapters are measured against.

    python train.py --config configs/vlbart_full.py --data.root=/data/vl

141,156,864 of 141,207,329 parameters train.
The learning rate, 1e-4, is ours; everything else is as in `vlbart_mtl_lora`. Published by DoRA's README: VQA 66.9, GQA
56.7, NLVR2 73.7, CIDEr 112.0.
"""

from configs.vlbart_mtl_lora import recipe
from mtlora_jax.image_text.config import ImageTextConfig


def get_config() -> ImageTextConfig:
    return recipe("vlbart_full", None, lr=1e-4, train_base=True)

"""One LoRA for all four image-text tasks on VL-BART: the baseline of `vlbart_mtl_lora`.

    python train.py --config configs/vlbart_lora.py --data.root=/data/vl

Rank 128, scale 1, at q and v of all attentions, with biases, norms and the visual embedding:
8,811,264 of 148,285,217 parameters train.
Everything else is as in `vlbart_mtl_lora`. Published by DoRA's README: VQA 65.2, GQA 53.6, NLVR2 71.9, CIDEr 115.3.
"""

from configs.vlbart_mtl_lora import SITES, recipe
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.language.adapter import Adapter


def get_config() -> ImageTextConfig:
    return recipe("vlbart_lora", Adapter(method="lora", rank=128, alpha=128.0, dropout=0.0, sites=SITES))

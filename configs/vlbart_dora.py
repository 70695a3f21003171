"""One DoRA for all four image-text tasks on VL-BART, by its published script.

    python train.py --config configs/vlbart_dora.py --data.root=/data/vl

Rank 128, scale 1, the norm differentiated, at q and v of all attentions, with biases, norms and the visual embedding:
8,838,912 of 148,312,865 parameters train.
Base batch 300, 10% warmup; else as in `vlbart_mtl_lora`. Published: VQA 65.8, GQA 54.7, NLVR2 73.1, CIDEr 115.9.
"""

from configs.vlbart_mtl_lora import SITES, recipe
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.language.adapter import Adapter


def get_config() -> ImageTextConfig:
    adapter = Adapter(method="dora", rank=128, alpha=128.0, dropout=0.0, sites=SITES, dora_simple=False)
    return recipe("vlbart_dora", adapter, batch_size=300, warmup=0.1)

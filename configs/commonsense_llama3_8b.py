"""MTL-LoRA on Llama-3-8B and the eight commonsense sets.

    python train.py --config configs/commonsense_llama3_8b.py --data.root=/data/commonsense

Differs from `commonsense_llama2_7b` in the base model: 12,127,232 of 8,042,388,480 parameters train.
"""

from dataclasses import replace

from configs.commonsense_llama2_7b import get_config as parent
from mtlora_jax.text.config import TextConfig


def get_config() -> TextConfig:
    return replace(parent(), name="commonsense_llama3_8b", init_from="meta-llama/Meta-Llama-3-8B")

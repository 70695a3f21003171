"""MTL-LoRA on Llama-3-8B and the eight commonsense sets.

    python train.py --config configs/commonsense_llama3_8b.py --data.root=/data/commonsense

Differs from `commonsense_llama2_7b` in the base model: 12,127,232 of 8,042,388,480 parameters train.
"""

from dataclasses import replace

from configs.commonsense_llama2_7b import LLAMA2_7B
from configs.commonsense_llama2_7b import get_config as parent
from mtlora_jax.text.config import TextConfig

LLAMA3_8B = replace(LLAMA2_7B, vocab_size=128_256, intermediate=14_336, kv_heads=8, rope_theta=5e5, max_positions=8192)


def get_config() -> TextConfig:
    return replace(parent(), name="commonsense_llama3_8b", init_from="meta-llama/Meta-Llama-3-8B", model=LLAMA3_8B)

"""MTL-LoRA on Llama-3-8B and nine commonsense sets: the eight, and CommonsenseQA.

    python train.py --config configs/csr_mtl9_llama3_8b.py --data.root=/data/commonsense

Differs from `commonsense_llama3_8b` in the ninth task, whose 9,741 training rows come from the authors' own files
(`<root>/commonsense_qa/train_rand_split.jsonl`; scored on the 1,221 of `dev_rand_split.jsonl`, since its test labels
are not public), and in the steps of its 3 epochs. `python -m mtlora_jax.report RUN --scored generate --published
csr_mtl9` sets what others published beside it. Not trained here.
"""

from dataclasses import replace

from configs.commonsense_llama3_8b import get_config as parent
from mtlora_jax.text.config import TaskConfig, TextConfig
from mtlora_jax.text.published import PROTOCOLS

STEPS = 3 * (170_420 + 9_741) // 64


def get_config() -> TextConfig:
    config = parent()
    return replace(
        config,
        name="csr_mtl9_llama3_8b",
        tasks={task: TaskConfig() for task in PROTOCOLS["csr_mtl9"].tasks},
        optim=replace(config.optim, warmup_steps=-(-STEPS // 100)),
        train=replace(config.train, steps=STEPS),
    )

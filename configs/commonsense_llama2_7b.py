"""MTL-LoRA on Llama-2-7B and the eight commonsense sets, by the published recipe.

    python train.py --config configs/commonsense_llama2_7b.py --data.root=/data/commonsense

q, k, v, o; rank 8, alpha 16, 3 up-projections, temperature 0.1, dropout 0.05: 16,845,824 of 6,755,261,440 parameters
train. AdamW at 3e-4 without decay, 1% linear warmup, linear to 0, clipped at 1; 3 epochs of 170,420 rows cut at 256
tokens, bfloat16. The paper's code takes 8 rows a GPU of one node; that is 64 on eight, taken here. Prompts are one
consistent template; `--template=published --truncation=published` are the paper's, whitespace included. Its siblings
are one override away: `--adapter.method=lora`, `dora`, `multilora`, `moelora`, `hydralora`. Not trained here: the
accuracies of the paper's tables are not known to us, so none are quoted.
"""

from mtlora_jax.config import Mesh, Optim, Train
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.text.config import CommonsenseData, TaskConfig, TextConfig
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.text.tasks import COMMONSENSE

STEPS = 3 * 170_420 // 64
LLAMA2_7B = LlamaSpec(
    vocab_size=32_000, hidden=4096, intermediate=11_008, layers=32, heads=32, kv_heads=32, max_positions=4096
)
"""The base's shape, for `--dry_run` and `mtlora_jax.plan` where the base is not at hand; a run takes the base's own."""


def get_config() -> TextConfig:
    return TextConfig(
        name="commonsense_llama2_7b",
        init_from="meta-llama/Llama-2-7b-hf",
        model=LLAMA2_7B,
        adapter=Adapter(rank=8, alpha=16.0, up_projections=3, temperature=0.1, dropout=0.05),
        tasks={task: TaskConfig() for task in COMMONSENSE},
        cutoff=256,
        buckets=(64, 128, 192, 256),
        dtype="bfloat16",
        remat="full",
        data=CommonsenseData(train="commonsense_170k_taskid.json"),
        optim=Optim(
            lr=3e-4,
            schedule="linear",
            warmup_steps=-(-STEPS // 100),
            weight_decay=0.0,
            clip_norm=1.0,
            absent_tasks="step",
        ),
        train=Train(steps=STEPS, batch_size=64, eval_every=1000, log_every=20, workers=2, worker_kind="thread"),
        mesh=Mesh(data=1, fsdp=-1),
    )

"""MTL-LoRA on VL-BART and four image-text tasks, by the published recipe.

    python train.py --config configs/vlbart_mtl_lora.py --data.root=/data/vl

q and v of all attentions of bart-base; rank 64, alpha 16, 2 up-projections, temperature 0.8, full transforms, with
biases, norms and the visual embedding:
7,631,904 of 147,105,857 parameters train (the 50,465 entries of the head's bias are counted among all here).
AdamW at 1e-3 with its eps beside the uncorrected root, weight decay 0.01 but for biases, 3% linear warmup, linear to 0,
clipped at 5, dropout 0.1 in the frozen layers too; 20 epochs of batches of one task each: 512 of VQA, 853 of GQA, 170
of NLVR2, 426 of captions. Steps are for 605,102, 1,075,062, 86,373 and 566,747 training examples, counts that nobody
here has checked. Answers are written greedily; `--search.beams=5` is VL-Adapter's for captions. `--batches=mixed` mixes
the tasks, which the reference can't. Not trained here; from DoRA's README, for the same base and features: full
fine-tuning VQA 66.9, GQA 56.7, NLVR2 73.7, CIDEr 112.0, and LoRA of rank 128 65.2, 53.6, 71.9, 115.3.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.image_text.config import ImageTextConfig, PublishedData, TaskConfig
from mtlora_jax.language.adapter import Adapter

SIZES = {"vqa": 605_102, "gqa": 943_000 + 132_062, "nlvr": 86_373, "caption": 566_747}
SHARES = {"vqa": 1.0, "gqa": 100 / 60, "nlvr": 20 / 60, "caption": 50 / 60}
"""Rows of a batch of each task over the base batch."""
SITES = ("(self|encoder)_attn/[qv]_proj",)


def epoch(batch_size: int) -> int:
    """Batches of an epoch."""
    return sum(-(-SIZES[task] // int(batch_size * share)) for task, share in SHARES.items())


def recipe(name: str, adapter: Adapter | None, batch_size: int = 512, warmup: float = 0.03, lr: float = 1e-3, **more):
    """What the published runs share."""
    steps = 20 * epoch(batch_size)
    return ImageTextConfig(
        name=name,
        seed=9595,
        init_from="facebook/bart-base",
        dropout=0.1,
        adapter=adapter,
        tasks={task: TaskConfig(share=share) for task, share in SHARES.items()},
        lengths=((24, 12), (40, 40), (96, 40)),
        batches="one_task",
        data=PublishedData(val_length=1024),
        optim=Optim(
            lr=lr,
            schedule="linear",
            warmup_steps=int(warmup * steps),
            weight_decay=0.01,
            eps=1e-6,
            eps_corrected=False,
            clip_norm=5.0,
            absent_tasks="step",
        ),
        train=Train(
            steps=steps, batch_size=batch_size, eval_every=epoch(batch_size), log_every=20, worker_kind="thread"
        ),
        **more,
    )


def get_config() -> ImageTextConfig:
    adapter = Adapter(rank=64, alpha=16.0, dropout=0.0, sites=SITES, up_projections=2, temperature=0.8)
    return recipe("vlbart_mtl_lora", adapter)

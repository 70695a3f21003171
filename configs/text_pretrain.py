"""Pretrains a Llama of a million weights on texts about the micro-world: where the embedded `microworld` comes from.

    python train.py --config configs/text_pretrain.py

Facts, likenesses and routines in plain sentences, and questions about them in many forms; never an instruction, never
the forms of the eight tasks. 50 minutes on two cores. Writes a Hugging Face folder `llama`, whose copy in
`mtlora_jax/assets/microworld` every text recipe starts from.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.text.llama import LlamaSpec
from mtlora_jax.text.pretrain import TextPretrainConfig


def get_config() -> TextPretrainConfig:
    return TextPretrainConfig(
        name="text_pretrain",
        model=LlamaSpec(
            vocab_size=1280, hidden=128, intermediate=384, layers=5, heads=4, kv_heads=2, tied=True, max_positions=512
        ),
        length=256,
        optim=Optim(lr=3e-3, lr_min=1e-4, warmup_steps=100, weight_decay=0.05, b2=0.98, clip_norm=1.0),
        train=Train(steps=4500, batch_size=16, eval_every=500, checkpoint_every=250, log_every=20, workers=1),
    )

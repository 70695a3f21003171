"""Pretrains a BART of a million weights on texts about scenes: where the embedded `scenes_bart` comes from.

    python train.py --config configs/image_text_pretrain.py

It fills masked spans of descriptions and answers questions about descriptions that it reads; it never sees a picture.
Three quarters of an hour on two cores. Writes a Hugging Face folder `bart`, whose copy in
`mtlora_jax/assets/scenes_bart` the scenes recipes of image and text start from.
"""

from mtlora_jax.config import Optim, Train
from mtlora_jax.image_text.bart import BartSpec
from mtlora_jax.image_text.pretrain import BartPretrainConfig


def get_config() -> BartPretrainConfig:
    return BartPretrainConfig(
        name="image_text_pretrain",
        model=BartSpec(
            vocab_size=547,
            width=128,
            encoder_layers=3,
            decoder_layers=2,
            encoder_heads=4,
            decoder_heads=4,
            encoder_hidden=384,
            decoder_hidden=384,
            positions=128,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            init_std=0.08,
        ),
        optim=Optim(lr=1e-3, lr_min=1e-5, warmup_steps=200, weight_decay=0.02, b2=0.98, clip_norm=1.0),
        train=Train(steps=12000, batch_size=64, eval_every=1000, checkpoint_every=1000, log_every=50, workers=1),
    )

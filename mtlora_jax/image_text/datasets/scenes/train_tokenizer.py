"""Trains the scenes' tokenizer: `python -m mtlora_jax.image_text.datasets.scenes.train_tokenizer FOLDER`.

BART's byte-level BPE, in which nearly every word about scenes is one token. Deterministic.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from mtlora_jax.image_text.datasets.scenes.prose import example
from mtlora_jax.image_text.tasks import PREFIXES
from mtlora_jax.image_text.tokenizer import SPECIAL

VOCABULARY = 512
EXAMPLES = 4000


def texts() -> Iterator[str]:
    """Sources and targets of pretraining."""
    for number in range(EXAMPLES):
        yield from example(PREFIXES, 0, "train", number)


def train(folder: Path) -> None:
    """Writes `tokenizer.json`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    *first, mask = SPECIAL
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=first,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.replace(mask, "") for text in texts()), trainer)
    tokenizer.add_special_tokens([AddedToken(mask, lstrip=True, special=True)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    train(Path(sys.argv[1]))

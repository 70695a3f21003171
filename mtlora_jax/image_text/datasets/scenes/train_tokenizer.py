"""Trains the scenes' tokenizer: `python -m mtlora_jax.image_text.datasets.scenes.train_tokenizer FOLDER`.

BART's byte-level BPE, in which nearly every word about scenes is one token, and so is the name of a thing, `red box`:
to a picture's feature too it is one. Deterministic.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from mtlora_jax.image_text.datasets.scenes.facts import PLURALS, Thing
from mtlora_jax.image_text.datasets.scenes.prose import examples
from mtlora_jax.image_text.tasks import PREFIXES
from mtlora_jax.image_text.tokenizer import SPECIAL
from mtlora_jax.images.scenes.world import COLOURS

VOCABULARY = 512
BATCHES, SIZE = 64, 64


def texts() -> Iterator[str]:
    """Sources and targets of pretraining."""
    for number in range(BATCHES):
        for pair in examples(PREFIXES, 0, "train", number, SIZE):
            yield from pair


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
    names = (Thing(kind, colour, 0, 0, 0).name for kind in PLURALS for colour in COLOURS)
    tokenizer.add_tokens([AddedToken(f" {name}", normalized=False) for name in names])
    tokenizer.add_special_tokens([AddedToken(mask, lstrip=True, special=True)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    train(Path(sys.argv[1]))

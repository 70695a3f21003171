"""Trains the micro-world's tokenizer: `python -m mtlora_jax.text.datasets.microworld.train_tokenizer FOLDER`.

Byte-level BPE in which nearly every word of the world is one token and every digit is one by itself. Deterministic.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mtlora_jax.text.datasets.microworld import FAMILIES, World, plain_text, rows

VOCABULARY = 1280
SPECIAL = ("<pad>", "<s>", "</s>")
DOCUMENTS, ROWS = 4000, 200


def texts() -> Iterator[str]:
    """Documents of world 0, and rows of every task."""
    world = World()
    for i in range(DOCUMENTS):
        yield plain_text(world, np.random.Generator(np.random.Philox(key=[0, i])))
    for task in FAMILIES:
        for row in rows(task, "train", ROWS, world):
            yield f"{row.instruction}\n\n### Instruction:\n### Response:\n{row.output}"


def train(folder: Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    pad, bos, eos = SPECIAL
    config = {"add_bos_token": True, "bos_token": bos, "eos_token": eos, "pad_token": pad}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    train(Path(sys.argv[1]))

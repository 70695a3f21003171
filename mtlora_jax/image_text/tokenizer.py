"""BART's byte-level BPE, with the 200 tokens that VL-BART adds to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart import BartSpec

ADDED = tuple(f"<{name}_{i}>" for name in ("extra_id", "vis_extra_id") for i in reversed(range(100)))
"""In the order in which they are added, so that `<vis_extra_id_k>` is row V - 1 - k of the word embedding."""
FILES = ("tokenizer.json", "vocab.json", "merges.txt")
"""The whole of a tokenizer, or its two parts."""
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
CLEANED = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"))
CLEANED += ((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))
"""Blanks that transformers takes out of a decoded text."""


class BartTokenizer:
    """Texts to ids and back; it pickles.

    Args:
      folder: holds `tokenizer.json`, or `vocab.json` and `merges.txt`.
      spec: the model's shape, which says what begins, fills and ends a text.

    Raises:
      UserError: there is no tokenizer, it cannot be read, or the model embeds another number of tokens than it has.
    """

    def __init__(self, folder: str | Path, spec: BartSpec):
        import tokenizers

        folder = Path(folder)
        self._inner = _read(folder)
        self.bos, self.pad, self.eos = spec.bos, spec.pad, spec.eos
        base = self._inner.get_vocab_size()
        if spec.visual is not None:
            # The published tokenizer takes the blanks on both sides of an added token away.
            added = (tokenizers.AddedToken(token, lstrip=True, rstrip=True, special=True) for token in ADDED)
            self._inner.add_special_tokens(list(added))
        self.vocab_size = self._inner.get_vocab_size()
        if self.vocab_size != spec.vocab_size:
            raise UserError(
                f"the tokenizer in {folder} has {base} tokens, {self.vocab_size} with those of pictures, and the model "
                f"embeds {spec.vocab_size}: they belong to different models"
            )

    def encode(self, text: str, limit: int = 0) -> list[int]:
        """Ids of a text between its beginning and its end; of the longest `limit` ids, the end kept; 0 cuts nothing."""
        ids = self._inner.encode(text, add_special_tokens=False).ids
        return [self.bos, *(ids[: limit - 2] if limit else ids), self.eos]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special ones left out."""
        text = self._inner.decode(list(map(int, ids)), skip_special_tokens=True)
        for spaced, close in CLEANED:
            text = text.replace(spaced, close)
        return text

    def save(self, folder: Path) -> None:
        """Writes it with its added tokens, as `tokenizer.json`."""
        self._inner.save(str(folder / FILES[0]))

    def word(self, text: str) -> int:
        """The first piece of a word at the beginning of a text."""
        return self.encode(text)[1]


def _read(folder: Path) -> Any:
    """The tokenizer in a folder, without truncation and padding."""
    import tokenizers

    whole, *parts = (folder / name for name in FILES)
    try:
        if whole.exists():
            inner = tokenizers.Tokenizer.from_file(str(whole))
        elif all(part.exists() for part in parts):
            inner = _from_parts(*map(str, parts))
        else:
            raise UserError(f"{folder} holds no tokenizer: neither {FILES[0]} nor {' and '.join(FILES[1:])}")
    except UserError:
        raise
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"the tokenizer in {folder} is not read: {error}") from None
    inner.no_truncation()
    inner.no_padding()
    return inner


def _from_parts(vocabulary: str, merges: str) -> Any:
    """The same from the two files of the first GPT-2 and BART."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    inner = Tokenizer(models.BPE.from_file(vocabulary, merges, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    known = inner.get_vocab()
    inner.add_special_tokens([AddedToken(t, lstrip=t == "<mask>", special=True) for t in SPECIAL if t in known])
    return inner

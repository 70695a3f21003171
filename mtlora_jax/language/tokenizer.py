"""Tokenizers from the files that models come with: Hugging Face's `tokenizer.json`, or a sentencepiece model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_text
from mtlora_jax.language.chat import ChatTemplate
from mtlora_jax.storage import fetched

HUGGING_FACE, SENTENCEPIECE, SETTINGS = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
CHAT = "chat_template.jinja"
SPECIAL = "special_tokens_map.json"
"""Names bos, eos and the like where `SETTINGS` does not."""


class Tokenizer(Protocol):
    """What the data code asks of a tokenizer; it pickles.

    Attributes:
      vocab_size: ids run below this.
      bos: put before every text, or None where the model wants none.
      eos: ends an answer.
      pad: fills rows up, always masked: a padding token, else the unknown one, else eos.
      chat_template: how it writes chats, if it says.
    """

    vocab_size: int
    bos: int | None
    eos: int
    pad: int
    chat_template: ChatTemplate | None

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no special ones added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special ones left out."""
        ...


class HuggingFaceTokenizer:
    """A `tokenizer.json`."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        import tokenizers

        try:
            self._inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{path} is not a tokenizer: {error}") from None
        # A file may keep the length that its maker cut or filled texts to.
        self._inner.no_truncation()
        self._inner.no_padding()
        self.vocab_size = self._inner.get_vocab_size()
        found = {name: self._id(settings.get(f"{name}_token")) for name in ("bos", "eos", "pad", "unk")}
        adds = settings.get("add_bos_token")
        if adds is None:  # its own post-processing says
            adds = self._inner.encode("a").ids[:1] == [found["bos"]]
        if found["eos"] is None:
            raise UserError(f"{path}: no eos_token; {SETTINGS} beside it should name one")
        self.bos, self.eos = (found["bos"] if adds else None), found["eos"]
        self.pad = _padding(found["pad"], found["unk"], self.eos)
        self.chat_template = _chat_template(path, settings)

    def _id(self, token: Any) -> int | None:
        return (
            None if token is None else self._inner.token_to_id(token["content"] if isinstance(token, dict) else token)
        )

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._inner.decode(list(map(int, ids)), skip_special_tokens=True)


class SentencePieceTokenizer:
    """A `tokenizer.model`."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        from sentencepiece import SentencePieceProcessor

        try:
            self._inner = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path} is not a sentencepiece model: {error}") from None
        self.vocab_size = self._inner.get_piece_size()
        known = {name: getattr(self._inner, f"{name}_id")() for name in ("bos", "eos", "pad", "unk")}
        found = {name: None if number < 0 else number for name, number in known.items()}
        if found["eos"] is None:
            raise UserError(f"{path} has no token that ends a text")
        self.bos, self.eos = (found["bos"] if settings.get("add_bos_token", True) else None), found["eos"]
        self.pad = _padding(found["pad"], found["unk"], self.eos)
        self._unknown = known["unk"]
        self.chat_template = _chat_template(path, settings)

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        # A model may embed more ids than its tokenizer has pieces, and write one of them.
        return self._inner.decode([int(i) if i < self.vocab_size else self._unknown for i in ids])


def _chat_template(path: Path, settings: dict[str, Any]) -> ChatTemplate | None:
    """The template in the settings, one of several by the name `default`, or in a file of its own."""
    own, said = path.parent / CHAT, settings.get("chat_template")
    if own.exists():
        said = read_text(own)
    if isinstance(said, list):
        said = next((one.get("template") for one in said if one.get("name") == "default"), None)
    if not isinstance(said, str):
        return None
    content = {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in settings.items()
        if name.endswith("_token") and isinstance(token, str | dict)
    }
    return ChatTemplate(said, content, str(path.parent))


def _padding(pad: int | None, unk: int | None, eos: int) -> int:
    return next(number for number in (pad, unk, eos) if number is not None)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a folder, or in a file.

    Raises:
      UserError: there is none, it cannot be read, or it knows no end of a text.
    """
    path = file = fetched(path)
    if path.is_dir():
        file = next((path / name for name in (HUGGING_FACE, SENTENCEPIECE) if (path / name).exists()), None)
        if file is None:
            raise UserError(f"{path} holds no tokenizer: neither {HUGGING_FACE} nor {SENTENCEPIECE}")
    if not file.exists():
        raise UserError(f"there is no tokenizer {file}")
    told = {}
    for settings in (file.parent / SPECIAL, file.parent / SETTINGS):
        try:
            said = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
        except ValueError as error:
            raise UserError(f"{settings} is not JSON: {error}") from None
        told |= {name: value for name, value in said.items() if value is not None}
    kind = SentencePieceTokenizer if file.suffix == ".model" else HuggingFaceTokenizer
    return kind(file, told)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises UserError where a tokenizer makes ids that a model has no embedding for."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model embeds {vocab_size}: they belong to different "
            "models; set --tokenizer to the model's own"
        )

"""A GGUF file's tokenizer as the files of a Hugging Face folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError
from mtlora_jax.files import replacing, write_json
from mtlora_jax.weights.gguf.tensors import told

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
"""Kinds of tokens; sentencepiece's own numbers."""
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "llama-bpe": rf"{CONTRACTIONS}|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTIONS}|\p{{N}}|{REST}",
}
"""By the name of a pre-tokenizer: what cuts a text into words, where it isn't GPT-2's own expression."""
PLAIN = ("gpt-2", "default", "smollm")


def write(folder: Path, reader: Any) -> None:
    """Writes `tokenizer.json` or `tokenizer.model`, and `tokenizer_config.json`.

    Raises:
      UserError: the file holds no tokenizer, or one of another kind.
    """
    tokens, kind = told(reader, "tokenizer.ggml.tokens"), told(reader, "tokenizer.ggml.model")
    if not tokens:
        raise UserError("it holds no tokenizer")
    kinds = told(reader, "tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    # A class that takes the file as it is, where transformers would choose by the model's.
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast" if kind == "gpt2" else "LlamaTokenizer"}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = told(reader, f"tokenizer.ggml.{key}_token_id")
        if number is not None and 0 <= number < len(tokens):
            settings[f"{name}_token"] = tokens[number]
    # What llama.cpp takes where a file does not say.
    settings["add_bos_token"] = bool(told(reader, "tokenizer.ggml.add_bos_token", kind == "llama"))
    if template := told(reader, "tokenizer.chat_template"):
        settings["chat_template"] = template
    if kind == "gpt2":
        with replacing(folder / "tokenizer.json") as path:
            byte_level(reader, tokens, kinds).save(str(path))
    elif kind == "llama":
        with replacing(folder / "tokenizer.model") as path:
            path.write_bytes(sentencepiece(reader, tokens, kinds, settings))
    else:
        raise UserError(f"a tokenizer of kind {kind!r} is not read: gpt2 and llama are")
    write_json(folder / "tokenizer_config.json", settings)


def byte_level(reader: Any, tokens: Sequence[str], kinds: Sequence[int]) -> Any:
    """BPE over bytes, cut into words as the file's pre-tokenizer does."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    cut = told(reader, "tokenizer.ggml.pre", "default")
    if cut not in (*PLAIN, *SPLITS):
        raise UserError(f"a tokenizer that cuts words by {cut!r} is not read: {', '.join((*PLAIN, *SPLITS))} are")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in told(reader, "tokenizer.ggml.merges", [])]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut == "llama-bpe"))
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    steps = [pre_tokenizers.Digits(individual_digits=True)] if cut == "smollm" else []
    if cut in SPLITS:
        steps.append(pre_tokenizers.Split(Regex(SPLITS[cut]), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut in PLAIN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((CONTROL, True), (USER, False)):
        own = [token for token, of in zip(tokens, kinds, strict=True) if of == kind]
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=special) for token in own])
    return tokenizer


def sentencepiece(reader: Any, tokens: Sequence[str], kinds: Sequence[int], settings: dict[str, Any]) -> bytes:
    """Pieces, scores and kinds as a sentencepiece model."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    scores = told(reader, "tokenizer.ggml.scores", [0.0] * len(tokens))
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = BYTE in kinds
    model.trainer_spec.vocab_size = len(tokens)
    for name in ("unk", "bos", "eos", "pad"):
        if token := settings.get(f"{name}_token"):
            setattr(model.trainer_spec, f"{name}_piece", token)
            setattr(model.trainer_spec, f"{name}_id", list(tokens).index(token))
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(told(reader, "tokenizer.ggml.add_space_prefix", True))
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString()

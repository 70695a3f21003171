"""Small files written whole or not at all."""

import codecs
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError


def here(path: str | Path) -> Path:
    """A path on this machine. Raises UserError for one in a store, which would become a folder `gs:` here."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise UserError(f"{path} cannot be written to: give a folder of this machine")
    return Path(path)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path of the same suffix, which takes `path`'s place when the block ends well."""
    path = here(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: str | Path, value: Any) -> None:
    """Indented, keys in their own order: a config's tasks have one. What is not finite is null: JSON has no NaN."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """JSON with null in the place of numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
      UserError: it is missing, or in another encoding.
    """
    try:
        data = Path(path).read_bytes()
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not text in UTF-8; save it in that encoding") from None
    if "\0" in text:
        raise UserError(f"{path} holds NUL characters: it is in UTF-16 without a mark, or no text; save it in UTF-8")
    return text


def read_json(path: str | Path) -> Any:
    """Raises UserError for a file that is missing or no JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not JSON: {error}") from None


def cache_home() -> Path:
    """Where what can be made again is kept: `mtlora_jax` below `XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtlora_jax"


def make_workdir(path: str | Path) -> Path:
    """Makes a directory and probes that it can be written to; raises UserError if not."""
    path = here(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to the workdir {path}: {error.strerror}; choose another --workdir") from None
    return path

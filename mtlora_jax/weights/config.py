"""A Hugging Face folder's `config.json` as the shape of a model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json

CONFIG = "config.json"
Spec = TypeVar("Spec")


def read_spec(folder: Path, spec_of: Callable[[Mapping[str, Any]], Spec]) -> Spec:
    """The shape that a folder's config describes.

    Args:
      spec_of: makes it; raises KeyError for a key that is missing, ValueError for a model of another kind.

    Raises:
      UserError: there is no config, or it describes another kind of model; the message names the file and the key.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        raise UserError(f"{folder} holds no model: there is no {CONFIG}")
    config = read_json(path)
    if not isinstance(config, Mapping):
        raise UserError(f"{path} is not the config of a model")
    try:
        return spec_of(config)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from None

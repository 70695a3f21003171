"""Nested frozen dataclasses and JSON: written, read back and type-checked along their annotations.

What a config may hold: None, bool, int, float, str, `Literal`s, tuples, string-keyed mappings,
dataclasses, and unions of these. Where an annotation leaves open which dataclass is meant, the JSON gives
it under `kind`, as `module:Class`, or `/path/recipe.py:Class` for a class that a recipe file defines.
"""

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from mtlora_jax.errors import UserError
from mtlora_jax.recipes import file_of, load_recipe

KIND = "kind"
PLAIN = (bool, int, float, str, type(None))
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}


def fields(cls: type) -> dict[str, Any]:
    """A dataclass's fields in order, as `{name: annotation}`."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def alternatives(hint: Any) -> tuple:
    """The members of a union, or the annotation alone."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def is_mapping(hint: Any) -> bool:
    return isinstance(origin := typing.get_origin(hint) or hint, type) and issubclass(origin, Mapping)


def value_hint(hint: Any) -> Any:
    """The annotation of a mapping's values."""
    return (typing.get_args(hint) or (str, Any))[1]


def describe(hint: Any) -> str:
    """An annotation in words, for messages."""
    if len(members := alternatives(hint)) > 1:
        return " or ".join(describe(member) for member in members)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args)) if len(args) > 1 else str(args[0])
    if origin is tuple:
        each = f"each entry {describe(args[0])}" if args[-1] is Ellipsis else ", ".join(map(describe, args))
        return f"a tuple, {each}"
    if is_mapping(hint):
        return f"a dict of {describe(value_hint(hint))}"
    return WORDS.get(hint) or getattr(hint, "__name__", str(hint))


def encode(value: Any, hint: Any = Any, path: str = "") -> Any:
    """A config value as JSON.

    Args:
      value: what to write.
      hint: how its holder annotates it.
      path: where it sits, for messages.

    Raises:
      UserError: the value is of a kind that a config cannot hold; the message names its path.
    """
    where = path or "the config"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        known = [member for member in alternatives(hint) if dataclasses.is_dataclass(member)] == [cls]
        kind = {} if known else {KIND: f"{file_of(cls.__module__) or cls.__module__}:{cls.__qualname__}"}
        return kind | {k: encode(getattr(value, k), h, _join(path, k)) for k, h in fields(cls).items()}
    if isinstance(value, Mapping):
        inner = next((value_hint(member) for member in alternatives(hint) if is_mapping(member)), Any)
        return {key: encode(item, inner, _join(path, key)) for key, item in value.items()}
    if isinstance(value, tuple):
        return [encode(item, Any, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, list):
        raise UserError(f"{where} is the list {value!r}: write a tuple, configs never change")
    if type(value) not in PLAIN:
        raise UserError(f"{where} holds a {type(value).__name__}, which a config cannot")
    return value


def decode(value: Any, hint: Any, path: str = "") -> Any:
    """The inverse of `encode`, and the type check.

    Args:
      value: JSON.
      hint: the annotation it has to satisfy.
      path: where it sits, for messages.

    Raises:
      UserError: a key is unknown or missing, or a value is of the wrong type; the message names its path.
    """
    members = [member for member in alternatives(hint) if _fits(value, member)]
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    if classes and (len(classes) > 1 or KIND in value):
        return _decode_dataclass(value, _named_class(value.get(KIND), classes, path), path)
    if len(members) == 1 and isinstance(value, Mapping | list | tuple):
        # Whatever is wrong lies further down, and is told from there.
        return _decode_one(value, members[0], path)
    for member in members:
        with contextlib.suppress(UserError):
            return _decode_one(value, member, path)
    raise _refusal(value, hint, path)


def _fits(value: Any, hint: Any) -> bool:
    """Whether value and annotation are both objects, both arrays, or both neither."""
    if hint in (Any, object):
        return True
    if isinstance(value, Mapping):
        return dataclasses.is_dataclass(hint) or is_mapping(hint)
    if isinstance(value, list | tuple):
        return typing.get_origin(hint) is tuple
    return not (dataclasses.is_dataclass(hint) or is_mapping(hint) or typing.get_origin(hint) is tuple)


def _decode_one(value: Any, hint: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object):
        return value
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(value, hint, path)
    if is_mapping(hint):
        return {key: decode(item, value_hint(hint), _join(path, key)) for key, item in value.items()}
    if origin is tuple and (args[-1] is Ellipsis or len(args) == len(value)):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(decode(item, h, f"{path}[{i}]") for i, (item, h) in enumerate(zip(value, inner, strict=True)))
    if origin is Literal and any(value == choice and type(value) is type(choice) for choice in args):
        return value
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint is not float and type(value) is hint:
        return value
    raise _refusal(value, hint, path)


def _refusal(value: Any, hint: Any, path: str) -> UserError:
    return UserError(f"{path or 'the config'} must be {describe(hint)}, not {value!r}")


def _decode_dataclass(value: Mapping, cls: type, path: str) -> Any:
    known = fields(cls)
    for key in value:
        if key not in known and key != KIND:
            raise UserError(f"unknown key {_join(path, key)}: {cls.__name__} has {', '.join(known)}")
    for key in known:
        if key not in value:
            raise UserError(f"key {_join(path, key)} is missing")
    try:
        return cls(**{key: decode(value[key], h, _join(path, key)) for key, h in known.items()})
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{path or 'the config'}: {error}") from None


def _named_class(kind: Any, bases: list[type], path: str) -> type:
    where, expected = _join(path, KIND), " or ".join(base.__name__ for base in bases)
    if not isinstance(kind, str):
        raise UserError(f"{where} must name the class of a {expected}, as module:Class")
    try:
        module, _, name = kind.rpartition(":")
        cls = load_recipe(module) if module.endswith(".py") else import_module(module)
        for part in name.split("."):
            cls = getattr(cls, part)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"{where}: there is no class {kind} to import") from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and issubclass(cls, tuple(bases))):
        raise UserError(f"{where}: {kind} is not a {expected}")
    return cls


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)

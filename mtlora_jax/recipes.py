"""Recipe files: Python files that define `get_config()`, and classes of one's own, wherever they lie.

A file is imported under a module name of its path, so that what it defines can be pickled to worker processes and found
again from a config's JSON, which names a class in it as `/path/recipe.py:Class`.
"""

import contextlib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from mtlora_jax.errors import UserError

PREFIX = "recipe_"


def load_recipe(path: str | Path) -> ModuleType:
    """The module of a recipe file, imported once.

    The file imports its siblings as `from <its directory>.<sibling> import ...` or by their bare names, and this
    repository's recipes as `configs.<recipe>`.

    Raises:
      UserError: no such file, not Python, or it fails while it is imported; the message names file and line.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise UserError(f"there is no config file {path}")
    if file.suffix != ".py":
        raise UserError(f"{path} is not a recipe: a recipe is a Python file that defines get_config()")
    name = f"{PREFIX}{file.stem}_{hashlib.blake2b(bytes(file), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while they are made.
    sys.modules[name] = module
    try:
        with recipe_errors(path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def loaded_recipes() -> tuple[str, ...]:
    """The files imported so far."""
    return tuple(module.__file__ for name, module in list(sys.modules.items()) if name.startswith(PREFIX))


def file_of(module: str) -> str | None:
    """The file that a recipe's module was imported from; None for every other module."""
    return sys.modules[module].__file__ if module.startswith(PREFIX) and module in sys.modules else None


@contextlib.contextmanager
def recipe_errors(path: str | Path) -> Iterator[None]:
    """Runs a recipe's code with its siblings importable; what goes wrong becomes a UserError with file and line."""
    file = Path(path).resolve()
    before = list(sys.path)
    sys.path[:0] = map(str, (file.parent.parent, file.parent, Path(__file__).parents[1]))
    try:
        yield
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None
    except SyntaxError as error:
        raise UserError(f"{path} is not valid Python: line {error.lineno}: {error.msg}") from None
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{path}{where}: {type(error).__name__}: {error}") from None
    finally:
        sys.path[:] = before

"""What the doors share: recipe files, overrides on the command line, and errors of one line."""

import contextlib
import dataclasses
import difflib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlora_jax import mirrors, schema, storage
from mtlora_jax.config import Config
from mtlora_jax.engine import launch
from mtlora_jax.errors import Interrupted, UserError, one_line
from mtlora_jax.recipes import load_recipe, recipe_errors
from mtlora_jax.terminal import discard

SWEEP = "sweep."
"""How an override begins that gives a key several values."""

USAGE = """\
usage: {prog} --config FILE [--workdir DIR] [--dry_run] [--key.sub_key=value ...]

  --config FILE    a recipe: a Python file that defines get_config()
  --workdir DIR    where the run lives (default: runs/<name of the config>); run again to resume
  --dry_run        print what would be trained, and train nothing
  --optim.lr=1e-4  changes any key of the config; tuples as --backbone.depths=2,2,6,2
  --sweep.optim.lr=1e-4,1e-3 --sweep.seed=0,1   trains a run for every combination, all at once
  --profile STEP:STEPS   writes a trace of some steps to DIR/profile
  --coordinator HOST:PORT --processes N --process I   one of N processes; found by itself on Cloud TPU, GKE and SLURM
"""


@dataclass(frozen=True)
class Door:
    """What a command line asks for.

    Attributes:
      config: validated.
      workdir: the run's directory, here or in a store.
      dry_run: train nothing.
      launch: how the run's processes find each other; see `engine.launch`.
      profile: which steps are traced, as it was said.
    """

    config: Config
    workdir: str | Path
    dry_run: bool
    launch: Mapping[str, str | None]
    profile: str | None


def parse_door(argv: Sequence[str], prog: str = "train.py") -> Door:
    """Reads `--config FILE [--workdir DIR] [--dry_run] [overrides]`.

    `--help` prints the usage and, with a config, all its keys, and exits with 0.

    Raises:
      UserError: no config, an unknown key, a value of the wrong type or out of range.
    """
    flags, rest = split_flags(argv, ("config", "workdir", "profile", *launch.FLAGS), ("dry_run", "help"))
    if flags["help"] or "-h" in rest:
        print(USAGE.format(prog=prog))
        if flags["config"]:
            print("keys of this config:")
            print(
                *(f"  --{key}={show(value)}" for key, value in keys(load_config(flags["config"])).items()),
                sep="\n",
            )
        raise SystemExit(0)
    if not flags["config"]:
        raise UserError("no recipe: give one with --config FILE, such as configs/scenes_smoke.py")
    config = override(load_config(flags["config"]), rest)
    config.validate()
    named = flags["workdir"] or Path("runs") / config.name
    workdir = named if storage.is_remote(named) else Path(named)
    return Door(config, workdir, flags["dry_run"], {name: flags[name] for name in launch.FLAGS}, flags["profile"])


def open_trained(workdir: str | Path, arguments: Sequence[str] = ()) -> Any:
    """The `engine.run.Run` of a work directory, with overrides such as `--data.root=DIR` and `--init_from=DIR` for what
    has moved since it was trained; of a sweep, that of `--slot NAME` or `--slot best`.

    Raises:
      UserError: it holds no run; a sweep, and no slot is said; or an override of what was trained.
    """
    from mtlora_jax.engine.run import open_run

    flags, rest = split_flags(arguments, ("slot",))
    run = open_run(workdir)
    run = run.changed(override(run.config, rest)) if rest else run
    return run.slot(flags["slot"])


def split_flags(
    argv: Sequence[str], values: Sequence[str], switches: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Takes the flags named here out of a command line.

    Args:
      values: flags `--name VALUE` or `--name=VALUE`.
      switches: flags `--name`.

    Returns:
      `{name: value, None, True or False}` and the remaining arguments in order.
    """
    flags: dict[str, Any] = dict.fromkeys(values) | dict.fromkeys(switches, False)
    rest, remaining = [], list(argv)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in switches:
            if equals:
                raise UserError(f"--{name} takes no value")
            flags[name] = True
        elif argument.startswith("--") and name in values:
            if not equals:
                value = remaining.pop(0) if remaining and not remaining[0].startswith("--") else ""
            if not value:
                raise UserError(f"--{name} needs a value")
            flags[name] = at_home(value)
        else:
            rest.append(argument)
    return flags, rest


def load_config(path: str | Path) -> Config:
    """What the recipe file's `get_config()` returns; see `mtlora_jax.recipes` for where it may lie.

    Raises:
      UserError: no such file, not Python, no `get_config`, or it does not return a `Config`.
    """
    module = load_recipe(path)
    if not callable(get_config := getattr(module, "get_config", None)):
        raise UserError(f"{path} defines no get_config()")
    with recipe_errors(path):
        config = get_config()
    if not isinstance(config, Config):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}, not a mtlora_jax.config.Config")
    return config


def override(config: Config, arguments: Sequence[str]) -> Config:
    """The config with `--a.b=value`, `--a.b value` or `--a.b v1 v2` applied in order; validates nothing.

    A tuple's entries are separated by commas or spaces; `None` empties an optional key or drops a group.

    Raises:
      UserError: an unknown key (with the nearest known one), or a value of the wrong type.
    """
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise UserError(f"does not understand the argument {argument!r}: overrides look like --optim.lr=1e-4")
        key, equals, value = argument[2:].partition("=")
        tokens = [value] if equals else []
        while not equals and remaining and not remaining[0].startswith("--"):
            tokens.append(remaining.pop(0))
        tokens = [at_home(token) for token in tokens]
        if key.startswith(SWEEP):
            config = _swept(config, key.removeprefix(SWEEP), " ".join(tokens))
        else:
            config = _set(config, type(config), key.split("."), key, tokens, config)
    return config


def _swept(config: Config, key: str, text: str) -> Config:
    """The config with a key's values, separated by commas or spaces, as an axis of its sweep."""
    values = [
        keys(_set(config, type(config), key.split("."), key, [token], config))[key]
        for token in text.replace(",", " ").split()
    ]
    if not values or any(isinstance(value, tuple | Mapping) for value in values):
        raise UserError(f"--{SWEEP}{key} needs single values, separated by commas")
    return dataclasses.replace(config, sweep={**config.sweep, key: tuple(values)})


def at_home(path: str) -> str:
    """A path whose `~` stands for the home folder: no shell replaces it behind an equals sign."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


def _set(node: Any, hint: Any, rest: list[str], key: str, tokens: list[str], root: Config) -> Any:
    """`node` with the value at `rest` below it replaced; `key` is the whole path, `root` the whole config."""
    if not rest:
        return _parse(node, hint, key, tokens)
    name, *rest = rest
    if dataclasses.is_dataclass(node) and name in (hints := schema.fields(type(node))):
        new = _set(getattr(node, name), hints[name], rest, key, tokens, root)
        try:
            return dataclasses.replace(node, **{name: new})
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"--{key}: {error}") from None
    if isinstance(node, Mapping):
        inner = next(schema.value_hint(h) for h in schema.alternatives(hint) if schema.is_mapping(h))
        # New keys may come into a mapping of plain values; a group has too many fields to come from one key.
        if name in node or not (rest or any(map(dataclasses.is_dataclass, schema.alternatives(inner)))):
            return {**node, name: _set(node.get(name), inner, rest, key, tokens, root)}
    raise UserError(f"unknown config key {key}{_suggestion(key, root)}")


def _suggestion(key: str, root: Config) -> str:
    known = list(keys(root))
    for prefix in (key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)):
        if prefix in known and keys(root)[prefix] is None:
            return f": {prefix} is None in this config; set it in the recipe"
    last = key.rpartition(".")[2]
    namesakes = [k for k in known if k.rpartition(".")[2] == last]
    for candidates, cutoff in ((known, 0.7), (namesakes, 0.0)):
        if near := difflib.get_close_matches(key, candidates, n=1, cutoff=cutoff):
            return f": did you mean {near[0]}?"
    return "; --help lists all keys"


def _parse(old: Any, hint: Any, key: str, tokens: list[str]) -> Any:
    text = " ".join(tokens)
    if text == "None" and type(None) in schema.alternatives(hint):
        return None
    if dataclasses.is_dataclass(old) or any(map(dataclasses.is_dataclass, schema.alternatives(hint))):
        if old is None:
            raise UserError(f"{key} is None in this config and can only be set in the recipe")
        raise UserError(
            f"{key} is a group: set one of {', '.join(f'{key}.{name}' for name in schema.fields(type(old)))}"
        )
    if not tokens:
        raise UserError(f"--{key} needs a value: {schema.describe(hint)}")
    if len(tokens) == 1 and "," in text and any(map(_is_tuple, schema.alternatives(hint))):
        tokens = [part for part in text.split(",") if part]
    if hint is bool:
        tokens = [text.capitalize()]
    import tyro

    box = dataclasses.make_dataclass("box", [("value", hint)])
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            options = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
            return tyro.cli(box, args=["--value", *tokens], config=options, console_outputs=False).value
    except SystemExit:
        raise UserError(f"{key} must be {schema.describe(hint)}, not {text!r}") from None


def _is_tuple(hint: Any) -> bool:
    return (getattr(hint, "__origin__", None) or hint) is tuple


def keys(config: Any, path: str = "") -> dict[str, Any]:
    """All keys that can be overridden, as `{a.b.c: value}`."""
    if dataclasses.is_dataclass(config):
        items = {name: getattr(config, name) for name in schema.fields(type(config))}
    elif isinstance(config, Mapping) and config:
        items = config
    else:
        return {path: config}
    inner = [keys(value, f"{path}.{name}" if path else name) for name, value in items.items()]
    return {k: v for flat in inner for k, v in flat.items()}


def show(value: Any) -> str:
    """A config value as one would type it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@contextlib.contextmanager
def fail_cleanly() -> Iterator[None]:
    """Wraps a door, as decorator or context: a UserError becomes one line on stderr and exit status 2, and so does what
    the system refuses: a full disk, a file without permission, a device without memory.

    Ctrl-C exits with 130, after the command has printed what it saved; a reader of the output that is gone, with 141.
    """
    try:
        try:
            yield
        finally:
            mirrors.close()
    except BrokenPipeError:
        discard(sys.stdout)
        raise SystemExit(141) from None
    except (UserError, OSError) as error:
        print("error:", one_line(error), file=sys.stderr)
        raise SystemExit(2) from None
    except RuntimeError as error:  # of which jax's own are
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        mend = "a smaller --train.batch_size, --remat=full for language models, or more devices on --mesh.fsdp"
        print(f"error: the device's memory is full: {mend} ({one_line(error)[:200]})", file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None

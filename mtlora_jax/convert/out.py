"""Where a converted model may be written: nothing is lost by it."""

from pathlib import Path

from mtlora_jax import mirrors, storage
from mtlora_jax.errors import UserError
from mtlora_jax.weights import safetensors


def place_of(out: str, overwrite: bool, base: str) -> Path:
    """Where to write a file or a folder, which may be in a store; see `mirrors.outgoing`. Raises UserError where the
    folder that it would lie in is missing, or as `check_out` does."""
    if not storage.is_remote(out):
        if not Path(out).parent.is_dir():
            raise UserError(f"there is no directory {Path(out).parent} to write {Path(out).name} to")
        check_out(Path(out), overwrite, Path(base))
    elif f"{base.rstrip('/')}/".startswith(f"{out.rstrip('/')}/"):
        raise UserError(f"{out} is, or holds, the base {base}: write somewhere else")
    elif storage.exists(out) and not overwrite:
        raise UserError(f"{out} is there already: write somewhere else, or replace it with --overwrite")
    return mirrors.outgoing(out)


def check_out(out: Path, overwrite: bool, *bases: Path) -> None:
    """Raises UserError where writing to a folder, or a file, would destroy a base or other weights."""
    for base in bases:
        if out.exists() and base.exists() and (out.samefile(base) or base.resolve().is_relative_to(out.resolve())):
            raise UserError(f"{out} is, or holds, the base {base}: write somewhere else")
    held = safetensors.holds_weights(out) if out.is_dir() else [out] if out.exists() else []
    if held and not overwrite:
        raise UserError(f"{out} holds {held[0].name} already: write somewhere else, or replace it with --overwrite")

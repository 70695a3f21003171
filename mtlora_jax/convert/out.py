"""Where a converted model may be written: nothing is lost by it."""

from pathlib import Path

from mtlora_jax.errors import UserError
from mtlora_jax.weights import safetensors


def check_out(out: Path, overwrite: bool, *bases: Path) -> None:
    """Raises UserError where writing to a folder, or a file, would destroy a base or other weights."""
    for base in bases:
        if out.exists() and base.exists() and (out.samefile(base) or base.resolve().is_relative_to(out.resolve())):
            raise UserError(f"{out} is, or holds, the base {base}: write somewhere else")
    held = safetensors.holds_weights(out) if out.is_dir() else [out] if out.exists() else []
    if held and not overwrite:
        raise UserError(f"{out} holds {held[0].name} already: write somewhere else, or replace it with --overwrite")

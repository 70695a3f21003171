"""Who a work directory belongs to: to a process while that trains, and to a config once a checkpoint is in it."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from mtlora_jax.config import Config, check_resumable, is_run_config, to_json
from mtlora_jax.engine.hosts import check_shared, together, told
from mtlora_jax.engine.lease import leased
from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, read_json, write_json
from mtlora_jax.mirrors import CHECKPOINTS, Note, checkpoints, home

LOCK, CONFIG, BASE, RESULTS = ".lock", "config.json", "base.safetensors", "results.json"
TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
"""What a lock that somebody holds fails with; other failures are of file systems without locks."""


@contextlib.contextmanager
def claimed(workdir: Path, config: Config) -> Iterator[dict[str, Any] | None]:
    """A work directory that is this run's while the block runs: made if need be, and found to fit.

    Yields:
      The config of the run it holds, as JSON, which may differ from `config` in what a resumed run may change; None
      where it holds none, whatever a run that was never saved has left.

    Raises:
      UserError: it cannot be written, or not be seen by every process of the run; another run trains in it; it holds a
        run of another config, or things of others that a run would overwrite.
    """
    with contextlib.ExitStack() as held:

        def claim() -> dict[str, Any] | None:
            make_workdir(workdir)
            held.enter_context(locked(workdir))
            return _fitting(workdir, to_json(config))

        found = told(claim)
        check_shared(Note(workdir / LOCK))
        with together(workdir):
            yield found


def _fitting(workdir: Path, config: dict) -> dict[str, Any] | None:
    path = workdir / CONFIG
    if not path.exists():
        if found := next((name for name in (BASE, RESULTS, CHECKPOINTS) if _is_filled(home(workdir / name))), None):
            raise UserError(f"{home(workdir)} holds {found} without the {CONFIG} of a run; choose another --workdir")
        return None
    old = read_json(path)
    if not is_run_config(old):
        raise UserError(f"{home(path)} is not that of a run; choose another --workdir")
    if not holds_run(workdir):
        return None
    check_resumable(old, config, f"{home(workdir)} holds a run of another config")
    return old


def _is_filled(path: epath.Path) -> bool:
    """Whether there is a file, or a folder with something in it: an empty one is made before anything is saved."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def holds_run(workdir: Path) -> bool:
    """Whether a checkpoint was completed in a directory, or a run was finished whose checkpoints are gone."""
    folder, results = checkpoints(workdir), workdir / RESULTS
    saved = folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())
    return saved or (results.exists() and "finished" in read_json(results))


def take(workdir: Path, config: Config) -> None:
    """Makes the directory this config's; comes just before a checkpoint is written."""
    write_json(workdir / CONFIG, to_json(config))


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """A lock that ends with this process, however that ends. Raises UserError where a living process holds it."""
    holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}"
    if (note := Note(workdir / LOCK)).remote:
        with leased(note, holder):
            yield
        return
    with (workdir / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                file.seek(0)
                other = file.read().strip() or "another process"
                raise UserError(f"{workdir} is in use by {other}; wait for it, or choose another --workdir") from None
        file.truncate(0)
        print(holder, file=file, flush=True)
        yield

"""Object stores, written: work directories at `gs://`, `s3://` and `az://`, and what commands leave there.

A store holds whole objects: nothing in it is renamed, appended to, or locked. So a run works in a folder of its own
machine, which is sent whenever a checkpoint begins and when the command ends; checkpoints are written to the store by
orbax itself where it can, else here, and sent with the rest.
"""

import atexit
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from etils import epath

from mtlora_jax.errors import UserError, one_line
from mtlora_jax.storage import are_several, exists, fetch, file_system, in_threads, is_remote, objects_of, told

WRITABLE = ("gs", "s3", "az")
"""Where runs can live, and what commands write."""
BY_ORBAX = ("gs",)
"""Of these, where orbax writes checkpoints itself."""
CHECKPOINTS = "checkpoints"
STAYS = (CHECKPOINTS, "profile", "pictures")
"""What is in a run's folder and is not needed to go on with it."""
WHOLE = ".whole"
"""Ending of an object that says that a checkpoint beside it has been sent to its last byte."""


@dataclass
class Mirror:
    """A folder of this machine for one in a store.

    Attributes:
      url: of the store's.
      folder: of this machine.
      of_run: what lies in its `checkpoints` are checkpoints.
      sent: `{name: (size, time)}` of the files that are in the store as they are here.
    """

    url: str
    folder: Path
    of_run: bool = False
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)

    def here(self) -> dict[str, tuple[int, int]]:
        """The folder's files, without hidden ones and those of checkpoints that are still written."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder)
            hidden = any(part.startswith(".") for part in name.parts)
            half = self.of_run and name.parts[0] == CHECKPOINTS and not _checkpoint(name.as_posix())
            if path.is_file() and not hidden and not half:
                found[name.as_posix()] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def send(self) -> int:
        """Sends what has changed, and says how many files that were. A checkpoint counts there when all of it has been
        sent; one that is gone here goes there too."""
        here, before = self.here(), self.sent
        changed = [name for name in here if before.get(name) != here[name]]
        checkpoint = _checkpoint if self.of_run else lambda name: ""
        new, kept, known = ({*map(checkpoint, names)} - {""} for names in (changed, here, before))
        fs, root = file_system(self.url)

        def put(name: str) -> None:
            fs.put_file(str(self.folder / name), f"{root}/{name}")

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                fs.rm_file(f"{root}/{name}")

        def without(steps: set[str]) -> None:
            in_threads(remove, [step + WHOLE for step in steps], "removing")
            in_threads(remove, [name for name in before if checkpoint(name) in steps], "removing")

        def sent() -> None:
            without(known & new)  # made anew
            in_threads(put, changed, f"sending to {self.url}")
            in_threads(lambda step: fs.pipe_file(f"{root}/{step}{WHOLE}", b""), list(new), "sending")
            without(known - kept)

        if changed or known - kept:
            told(self.url, sent)
            self.sent = here
        return len(changed)


def _checkpoint(name: str) -> str:
    """The checkpoint that a run's file is of, `checkpoints/3`; empty for other files. One being written is called
    otherwise."""
    match = re.match(rf"{CHECKPOINTS}/\d+(\.damaged)?(?=/)", name)
    return match.group() if match else ""


_MIRRORS: dict[str, Mirror] = {}
"""Of work directories by their URL, and of what else is written, which nothing is read from."""


def opened(workdir: str | Path) -> Path:
    """The folder to work in for a work directory: itself; or for one in a store an empty folder of this machine, with
    what the store's holds beside checkpoints, and with those where `checkpoints` are here.

    Raises:
      UserError: the store cannot be reached, or checkpoints cannot be written there.
    """
    if not is_remote(workdir):
        return Path(workdir)
    url = _writable(workdir)
    if not (by_orbax := _by_orbax(url)) and are_several():
        shared = " or ".join(f"{scheme}://" for scheme in BY_ORBAX)
        raise UserError(f"{url}: checkpoints of several processes are written to {shared} or a folder that all share")
    if url not in _MIRRORS:
        mirror, objects = Mirror(url, _folder_for(url), of_run=True), objects_of(url)

        def is_needed(name: str) -> bool:
            if not by_orbax and (step := _checkpoint(name)):
                return f"{step}{WHOLE}" in objects
            return name.partition("/")[0] not in STAYS and not name.startswith(".")

        fetch(url, list(filter(is_needed, objects)), mirror.folder)
        mirror.sent = mirror.here()
        _MIRRORS[url] = mirror
    return _MIRRORS[url].folder


def _writable(url: str) -> str:
    if url.partition("://")[0] not in WRITABLE:
        raise UserError(f"{url} cannot be written to: give a folder of this machine, or of {', '.join(WRITABLE)}")
    return url.rstrip("/")


def outgoing(path: str | Path) -> Path:
    """Where to write what is to be at a path: there; or for one in a store in a folder of this machine, from which it
    is sent when the command ends.

    Raises:
      UserError: the store cannot be reached, or nothing can be written there.
    """
    if not is_remote(path):
        return Path(path)
    url = _writable(path)
    exists(url)  # now, and not after the work
    above, _, name = url.rpartition("/")
    above, name = (url, "") if above.endswith("/") else (above, name)  # a whole bucket
    if (key := f"to {url}") not in _MIRRORS:
        _MIRRORS[key] = Mirror(above, _folder_for(above))
    return _MIRRORS[key].folder / name


def _folder_for(url: str) -> Path:
    """An empty folder of this machine, which is gone when the process ends."""
    top = Path(tempfile.mkdtemp(prefix="mtlora_jax-"))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    scheme, _, place = url.partition("://")
    (top / scheme / place).mkdir(parents=True)
    return top / scheme / place


def send() -> None:
    """Sends what has changed of all that is in stores."""
    for mirror in _MIRRORS.values():
        mirror.send()


def close() -> None:
    """`send`, and says so: the last thing a command does."""
    for mirror in _MIRRORS.values():
        if count := mirror.send():
            print(f"sent {count} files to {mirror.url}", file=sys.stderr)


def home(path: Path) -> epath.Path:
    """Where a path of a work directory is in the end: in a store, or where it is."""
    for mirror in _MIRRORS.values():
        if path.is_relative_to(mirror.folder):
            return epath.Path(mirror.url) / path.relative_to(mirror.folder).as_posix()
    return epath.Path(path)


def checkpoints(workdir: Path) -> epath.Path:
    """Where the checkpoints of a work directory are written and read: there, or here for a store that orbax does not
    write to."""
    there = home(workdir / CHECKPOINTS)
    return there if _by_orbax(str(there)) else epath.Path(workdir / CHECKPOINTS)


def _by_orbax(path: str) -> bool:
    """Whether orbax writes checkpoints there: in a folder of this machine, and in a few stores."""
    return not is_remote(path) or path.partition("://")[0] in BY_ORBAX


class Note:
    """A short text that all processes see, in a shared folder or in a store. Raises OSError where it cannot be had."""

    def __init__(self, path: Path):
        self.where = str(home(path))
        self.remote = is_remote(self.where)
        self._fs, self._path = file_system(self.where)

    def read(self) -> str | None:
        """None where there is none."""
        with contextlib.suppress(FileNotFoundError), self._oserrors():
            return self._fs.cat_file(self._path).decode()
        return None

    def write(self, text: str) -> None:
        with self._oserrors():
            self._fs.pipe_file(self._path, text.encode())

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError), self._oserrors():
            self._fs.rm_file(self._path)

    @contextlib.contextmanager
    def _oserrors(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise
        except Exception as error:  # stores have errors of their own
            raise OSError(f"{self.where}: {type(error).__name__}: {one_line(error)}") from None

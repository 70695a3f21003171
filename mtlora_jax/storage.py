"""Object stores: work directories, data and weights at `gs://`, `s3://`, and wherever else fsspec opens.

A store holds whole objects: nothing in it is renamed, appended to, or locked. So a run works in a folder of its own
machine, which is sent whenever a checkpoint begins and when the command ends; checkpoints are written to the store by
orbax itself. Data and weights are fetched once into the cache, by every host for itself; of weights that several hosts
read, or that a host's disk has no room for, parts are read where they are.
"""

import atexit
import contextlib
import fnmatch
import functools
import logging
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec
from etils import epath
from tqdm import tqdm

from mtlora_jax.errors import UserError, one_line
from mtlora_jax.files import cache_home, read_json, replacing, write_json

T = TypeVar("T")
REMOTE = re.compile(r"[a-z][a-z0-9+.-]+://")
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
"""What opens a store, where another package does."""
THREADS = 16
"""Objects that are fetched or sent at once."""
PATIENCE = 10
"""Seconds without an answer, after which a line says so: stores' packages try for a minute."""
WRITABLE = ("gs", "s3", "az")
"""Where orbax writes checkpoints, and others what they make."""
STAYS = ("checkpoints", "profile", "pictures")
"""What is in a run's folder and is not needed to go on with it."""


def is_remote(path: str | Path) -> bool:
    return isinstance(path, str) and REMOTE.match(path) is not None


def _store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its path there."""
    scheme = url.partition("://")[0]
    if scheme in PACKAGES:  # what they log of failures, tracebacks too, is raised as well
        logging.getLogger(PACKAGES[scheme]).setLevel(logging.CRITICAL)
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError:
        package = PACKAGES.get(scheme, "a package that knows it")
        raise UserError(f"{scheme}:// is opened by {package}: pip install {package}") from None
    except ValueError as error:
        raise UserError(f"{url}: {one_line(error)}") from None


def _told(url: str, do: Callable[[], T]) -> T:
    """What `do` gives; whatever a store raises is one line that names the URL."""
    try:
        return do()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{url} cannot be used: {type(error).__name__}: {one_line(error)}") from None


class Stored(NamedTuple):
    """One object."""

    version: str
    size: int


def _objects(url: str) -> dict[str, Stored]:
    """Of all objects of a folder by their paths below it; the one of an object itself has the path ``."""
    fs, root = _store(url)
    fs.invalidate_cache()
    slow = threading.Timer(
        PATIENCE, print, (f"{url} has not answered in {PATIENCE} s; still trying",), {"file": sys.stderr}
    )
    slow.start()
    try:
        found = _told(url, lambda: fs.find(root, detail=True))
    finally:
        slow.cancel()
    objects = {}
    for path, about in found.items():
        name = path.removeprefix(root.rstrip("/")).lstrip("/")
        if ".." in name.split("/"):
            raise UserError(f"{url} holds {name!r}, which would be a file elsewhere on this machine")
        if about["type"] == "file" and not path.endswith("/"):
            objects[name] = Stored(_version(about), about["size"])
    return objects


def _version(about: Mapping[str, Any]) -> str:
    """What changes with an object: the store's own number or digest of it, or its size and time."""
    known = next((about[name] for name in ("generation", "etag", "ETag", "md5Hash") if about.get(name)), None)
    times = (about.get(name) for name in ("mtime", "LastModified", "created"))
    return str(known or [about.get("size"), next(map(str, filter(None, times)), "")])


def _each(work: Callable[[str], None], names: list[str], what: str) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        bar = tqdm(pool.map(work, names), what, total=len(names), unit="file", disable=None if len(names) > 1 else True)
        for _ in bar:
            pass


def _fetch(url: str, names: list[str], folder: Path, done: Callable[[str], None] = lambda name: None) -> None:
    fs, root = _store(url)

    def one(name: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            fs.get_file(f"{root.rstrip('/')}/{name}" if name else root, str(temporary))
        done(name)

    _told(url, lambda: _each(one, names, f"fetching {url}"))


def fetched(path: str | Path, parts: str = "") -> Path:
    """A path of this machine for what lies at one: itself, or the copy in the cache of what is in a store, an object or
    a whole folder, of which only what has changed is fetched again.

    Args:
      parts: names, with `*`, of files that parts can be read of: they stay in the store where several processes read
        them, or the disk has no room for them; `place` says so.

    Raises:
      UserError: the store cannot be reached, or nothing is there.
    """
    return _fetched(path.rstrip("/"), parts) if is_remote(path) else Path(path)


@functools.lru_cache(maxsize=64)
def _fetched(url: str, parts: str) -> Path:
    copy = cache_home() / "fetched" / url.replace("://", "/")
    if not (objects := _objects(url)):
        raise UserError(f"there is nothing at {url}")
    versions = copy.with_name(f".{copy.name}.versions.json")
    known = read_json(versions) if versions.is_file() else {}
    there = {name for name, of in objects.items() if known.get(name) == of.version and (copy / name).is_file()}
    lacking = [name for name in objects if name not in there]
    copy.parent.mkdir(parents=True, exist_ok=True)
    stay = [name for name in lacking if parts and fnmatch.fnmatch(name, parts)]
    size = sum(objects[name].size for name in stay)
    if not (_are_several() or size > shutil.disk_usage(copy.parent).free):
        stay = []
    for name in (known.keys() - objects.keys()).union(stay):
        (copy / name).unlink(missing_ok=True)
    if stay:
        _LEFT.update({copy / name: f"{url}/{name}" for name in stay})
        told = f"{len(stay)} of {len(objects)} files of {url} stay there"
        print(f"{told} ({size / 1e9:.1f} GB): parts are read as they are needed", file=sys.stderr)
    if lacking := [name for name in lacking if name not in stay]:
        try:
            _fetch(url, lacking, copy, there.add)
        finally:  # what is here now need not be fetched again
            write_json(versions, {name: objects[name].version for name in sorted(there)})
        print(f"fetched {len(lacking)} of {len(objects)} files of {url} to {copy}", file=sys.stderr)
    return copy


_LEFT: dict[Path, str] = {}
"""Of files of fetched folders that stayed in their store, where they are."""


def place(path: Path) -> Path | str:
    """Where a file of a fetched folder is: here, or the URL where it stayed."""
    return _LEFT.get(path, path)


def _are_several() -> bool:
    """Whether this is one of several processes; those that have not been joined are not known of."""
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def read_ranges(url: str, edges: Sequence[int]) -> list[bytes]:
    """The bytes of an object between every edge and the next. Raises UserError where they cannot be had; fewer are
    given where the object ends."""
    fs, path = _store(url)
    starts, ends = list(edges[:-1]), list(edges[1:])
    return _told(url, lambda: fs.cat_ranges([path] * len(starts), starts, ends, on_error="raise"))


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder at a path, here or in a store."""
    return bool(_objects(path.rstrip("/"))) if is_remote(path) else Path(path).exists()


@dataclass
class Mirror:
    """A folder of this machine for one in a store.

    Attributes:
      url: of the store's.
      folder: of this machine.
      sent: `{name: (size, time)}` of the files that are in the store as they are here.
    """

    url: str
    folder: Path
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)

    def here(self) -> dict[str, tuple[int, int]]:
        """The folder's files, without hidden ones."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                found[name.as_posix()] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def send(self) -> int:
        """Sends what has changed, and says how many files that were."""
        here = self.here()
        changed = [name for name in here if self.sent.get(name) != here[name]]
        fs, root = _store(self.url)

        def one(name: str) -> None:
            fs.put_file(str(self.folder / name), f"{root}/{name}")

        if changed:
            _told(self.url, lambda: _each(one, changed, f"sending to {self.url}"))
            self.sent = here
        return len(changed)


_MIRRORS: dict[str, Mirror] = {}
"""Of work directories by their URL, and of what else is written, which nothing is read from."""


def opened(workdir: str | Path) -> Path:
    """The folder to work in for a work directory: itself; or for one in a store an empty folder of this machine, with
    what the store's holds beside checkpoints.

    Raises:
      UserError: the store cannot be reached, or checkpoints cannot be written there.
    """
    if not is_remote(workdir):
        return Path(workdir)
    url = _writable(workdir)
    if url not in _MIRRORS:
        mirror = Mirror(url, _folder_for(url))
        needed = [name for name in _objects(url) if name.partition("/")[0] not in STAYS and not name.startswith(".")]
        _fetch(url, needed, mirror.folder)
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


class Note:
    """A short text that all processes see, in a shared folder or in a store. Raises OSError where it cannot be had."""

    def __init__(self, path: Path):
        self.where = str(home(path))
        self.remote = is_remote(self.where)
        self._fs, self._path = _store(self.where)

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

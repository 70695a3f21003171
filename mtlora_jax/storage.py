"""Object stores, read: data and weights at `gs://`, `s3://`, and wherever else fsspec opens.

They are fetched once into the cache, by every host for itself; of weights that several hosts read, or that a disk has
no room for, parts are read where they are. What is written to stores: `mirrors`.
"""

import fnmatch
import functools
import logging
import re
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec
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


def is_remote(path: str | Path) -> bool:
    return isinstance(path, str) and REMOTE.match(path) is not None


def file_system(url: str) -> tuple[Any, str]:
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


def told(url: str, do: Callable[[], T]) -> T:
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


def objects_of(url: str) -> dict[str, Stored]:
    """Of all objects of a folder by their paths below it; the one of an object itself has the path ``."""
    fs, root = file_system(url)
    fs.invalidate_cache()
    slow = threading.Timer(
        PATIENCE, print, (f"{url} has not answered in {PATIENCE} s; still trying",), {"file": sys.stderr}
    )
    slow.start()
    try:
        found = told(url, lambda: fs.find(root, detail=True))
        if isinstance(found, list):  # adlfs gives names where there is one object or none
            found = told(url, lambda: {path: fs.info(path) for path in found})
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


def in_threads(work: Callable[[str], None], names: list[str], what: str) -> None:
    """`work` of every name, several at a time; `what` stands before the progress bar."""
    with ThreadPoolExecutor(THREADS) as pool:
        bar = tqdm(pool.map(work, names), what, total=len(names), unit="file", disable=None if len(names) > 1 else True)
        for _ in bar:
            pass


def fetch(url: str, names: list[str], folder: Path, done: Callable[[str], None] = lambda name: None) -> None:
    """Copies objects below a URL into a folder of this machine, each whole or not at all; calls `done` after each.

    Raises:
      UserError: the store cannot be reached.
    """
    fs, root = file_system(url)

    def one(name: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            fs.get_file(f"{root.rstrip('/')}/{name}" if name else root, str(temporary))
        done(name)

    told(url, lambda: in_threads(one, names, f"fetching {url}"))


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
    if not (objects := objects_of(url)):
        raise UserError(f"there is nothing at {url}")
    versions = copy.with_name(f".{copy.name}.versions.json")
    known = read_json(versions) if versions.is_file() else {}
    there = {name for name, of in objects.items() if known.get(name) == of.version and (copy / name).is_file()}
    lacking = [name for name in objects if name not in there]
    copy.parent.mkdir(parents=True, exist_ok=True)
    stay = [name for name in lacking if parts and fnmatch.fnmatch(name, parts)]
    size = sum(objects[name].size for name in stay)
    if not (are_several() or size > shutil.disk_usage(copy.parent).free):
        stay = []
    for name in (known.keys() - objects.keys()).union(stay):
        (copy / name).unlink(missing_ok=True)
    if stay:
        _LEFT.update({copy / name: f"{url}/{name}" for name in stay})
        which = f"{len(stay)} of {len(objects)} files of {url} stay there"
        print(f"{which} ({size / 1e9:.1f} GB): parts are read as they are needed", file=sys.stderr)
    if lacking := [name for name in lacking if name not in stay]:
        try:
            fetch(url, lacking, copy, there.add)
        finally:  # what is here now need not be fetched again
            write_json(versions, {name: objects[name].version for name in sorted(there)})
        print(f"fetched {len(lacking)} of {len(objects)} files of {url} to {copy}", file=sys.stderr)
    return copy


_LEFT: dict[Path, str] = {}
"""Of files of fetched folders that stayed in their store, where they are."""


def place(path: Path) -> Path | str:
    """Where a file of a fetched folder is: here, or the URL where it stayed."""
    return _LEFT.get(path, path)


def are_several() -> bool:
    """Whether this is one of several processes; those that have not been joined are not known of."""
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def read_ranges(url: str, edges: Sequence[int]) -> list[bytes]:
    """The bytes of an object between every edge and the next. Raises UserError where they cannot be had; fewer are
    given where the object ends."""
    fs, path = file_system(url)
    starts, ends = list(edges[:-1]), list(edges[1:])
    return told(url, lambda: fs.cat_ranges([path] * len(starts), starts, ends, on_error="raise"))


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder at a path, here or in a store."""
    return bool(objects_of(path.rstrip("/"))) if is_remote(path) else Path(path).exists()

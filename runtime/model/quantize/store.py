"""Packed weights on disk, so that a model is packed once and mapped from then on.

    weights/<key>/layers.0.qkv.int4.safetensors ...   one file a form
    weights/<key>/rest.safetensors                    what is not packed: the table of embeddings, norms, biases
    weights/<key>/index.json                          the SHA-256 of every file, written last

A folder appears whole or not at all, and every file is checked against its digest before it is used. The key stands
for all that the bytes depend on. Folders not used for longest go when all of them are too large. This file knows no
model and no form.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latticework.lang.errors import BrokenModel

log = logging.getLogger("latticework.model")

LAYOUT = 2  # raise it when what is kept changes its meaning
_INDEX = "index.json"


def key_of(*facts: object) -> str:
    """A name for what `facts` decide."""
    return hashlib.blake2b(json.dumps([LAYOUT, *map(str, facts)]).encode(), digest_size=16).hexdigest()


class Kept:
    """A whole folder of packed weights."""

    def __init__(self, folder: Path, digests: Mapping[str, str]) -> None:
        self.folder = folder
        self._digests = digests

    @staticmethod
    def find(root: Path, key: str) -> Kept | None:
        """The folder of `key`, if it is there. Counts as a use."""
        folder = root / key
        try:
            digests = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            os.utime(folder / _INDEX)
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            return None
        return Kept(folder, digests)

    def __contains__(self, name: str) -> bool:
        return name in self._digests

    def check(self, threads: int) -> None:
        """Raises BrokenModel naming a file whose bytes are not those that were written."""
        with ThreadPoolExecutor(threads) as pool:
            for name, found in zip(self._digests, pool.map(self._digest, self._digests), strict=True):
                if found != self._digests[name]:
                    raise BrokenModel(f"{self._path(name)} is damaged: its SHA-256 is not that of its index")

    def read(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file, mapped: they are read from disk when they are used."""
        try:
            with safe_open(self._path(name), framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise BrokenModel(f"{self._path(name)} cannot be read: {error}") from None

    def _digest(self, name: str) -> str:
        try:
            return _sha256(self._path(name))
        except (OSError, ValueError) as error:  # ValueError: an empty file
            return str(error)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


class Keeper:
    """Writes the folder of one key. Where that fails, it says so once and keeps nothing."""

    def __init__(self, root: Path, key: str, limit: int) -> None:
        """limit: bytes that all folders below `root` may hold together."""
        self._root, self._key, self._limit = root, key, limit
        self._digests: dict[str, str] = {}
        self._bytes = 0
        self._folder: Path | None = None
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=".", dir=root))
        except OSError as error:
            self._give_up(error)

    def add(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes one file."""
        if self._folder is None:
            return
        self._bytes += sum(tensor.nbytes for tensor in tensors.values())
        if self._bytes > self._limit:
            self._give_up(f"they are larger than the {self._limit >> 20} MiB allowed")
            return
        path = self._folder / f"{name}.safetensors"
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
            self._digests[name] = _sha256(path)
        except (OSError, ValueError, SafetensorError) as error:
            self._give_up(error)

    def finish(self) -> None:
        """Puts the folder in its place, and makes room."""
        if self._folder is None:
            return
        target = self._root / self._key
        try:
            (self._folder / _INDEX).write_text(json.dumps(self._digests), encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)  # damaged, or it would have been used
            self._folder.rename(target)
        except OSError as error:
            if Kept.find(self._root, self._key) is None:  # else another process was as fast
                self._give_up(error)
        self.discard()
        make_room(self._root, self._limit, self._key)

    def _give_up(self, why: object) -> None:
        log.warning("packed weights are not kept in %s, so every start packs them anew: %s", self._root, why)
        self.discard()

    def discard(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None


def _sha256(path: Path) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return hashlib.sha256(data).hexdigest()


def make_room(root: Path, limit: int, spared: str) -> None:
    """Removes the folders not used for longest until all hold at most `limit` bytes; never the one named `spared`."""
    folders = sorted(_folders(root), key=lambda folder: (folder.name == spared, _used(folder)), reverse=True)
    total = 0
    for folder in folders:
        size = sum(path.stat().st_size for path in folder.iterdir())
        total += size
        if total > limit and folder.name != spared:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _used(folder: Path) -> float:
    try:
        return (folder / _INDEX).stat().st_mtime
    except OSError:
        return 0.0

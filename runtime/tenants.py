"""Who may ask: the file of API keys, and the tenant behind a key.

    # tenant   key, or its SHA-256
    research   lw-2f6c0e1d9a7b4c35
    teaching   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

Only hashes are kept. This file knows no HTTP; it never shows a key, only the line it stands on.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from latticework.lang.errors import InvalidArgument
from latticework.runtime.link.messages import TENANT

MAX_FILE_BYTES = 1 << 20
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_KEY = re.compile(r"[!-~]{16,512}")  # what fits an Authorization header, and is no word to guess


class ApiKeys:
    """Tenants by the SHA-256 of their keys; a tenant may have several."""

    def __init__(self, tenants: Mapping[bytes, str]) -> None:
        self._tenants = dict(tenants)

    @classmethod
    def from_file(cls, path: Path) -> ApiKeys:
        """Raises InvalidArgument naming the line at fault; also when others may read a file that holds plain keys."""
        text, mode = _read(path)
        tenants: dict[bytes, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            digest, tenant = _entry(words, f"line {number} of {path}")
            if not _HASH.fullmatch(words[1]) and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise _refusal(f"{path} holds keys and others may read it", f"chmod 600 {path}, or write sha256:HEX")
            if digest in tenants:
                raise _refusal(f"the key in line {number} of {path} stands there twice")
            tenants[digest] = tenant
        if not tenants:
            raise _refusal(f"{path} holds no keys", "one `tenant key` a line")
        return cls(tenants)

    def tenant_of(self, key: bytes) -> str | None:
        """The tenant whose key this is. Takes as long whichever it is, and whether it is one."""
        digest = hashlib.sha256(key).digest()
        found = None
        for known, tenant in self._tenants.items():
            if hmac.compare_digest(known, digest):
                found = tenant
        return found


def _read(path: Path) -> tuple[str, int]:
    """The file's text and its mode, of the same file even if it is replaced meanwhile."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise _refusal(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return data.decode(), mode
    except OSError as error:
        raise _refusal(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _refusal(f"{path} is no text in UTF-8") from None


def _entry(words: list[str], place: str) -> tuple[bytes, str]:
    if len(words) != 2:
        raise _refusal(f"{place} has {len(words)} words", "expected `tenant key` or `tenant sha256:HEX`")
    tenant, key = words
    if not re.search(TENANT, tenant):
        raise _refusal(f"{place}: a tenant is up to 64 letters, digits, dots, dashes or underscores")
    known = _HASH.fullmatch(key)
    if known:
        return bytes.fromhex(known[1]), tenant
    if key.startswith("sha256:") or not _KEY.fullmatch(key):
        raise _refusal(f"{place}: a key is 16 to 512 visible ASCII characters, or sha256: and 64 hex digits")
    return hashlib.sha256(key.encode()).digest(), tenant


def _refusal(message: str, hint: str | None = None) -> InvalidArgument:
    return InvalidArgument(message, field="api_keys", hint=hint)

"""The file of API keys: what it may hold, and what of it is ever shown."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from latticework.lang.errors import InvalidArgument
from latticework.runtime.tenants import ApiKeys

KEY = "a-key-of-sixteen-or-more"
HASH = "sha256:" + hashlib.sha256(b"another-key-of-sixteen").hexdigest()


def keys_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_key_or_its_hash_names_a_tenant(tmp_path: Path) -> None:
    keys = ApiKeys.from_file(keys_file(tmp_path, f"# who may ask\n\na {KEY}\n  b\t{HASH}  \n"))
    assert keys.tenant_of(KEY.encode()) == "a"
    assert keys.tenant_of(b"another-key-of-sixteen") == "b"
    for wrong in (b"", KEY.encode()[:-1], KEY.encode() + b"x", HASH.encode(), b"\xff" * 20):
        assert keys.tenant_of(wrong) is None


def test_a_tenant_may_have_several_keys(tmp_path: Path) -> None:
    keys = ApiKeys.from_file(keys_file(tmp_path, f"a {KEY}\na {HASH}\n"))
    assert keys.tenant_of(KEY.encode()) == keys.tenant_of(b"another-key-of-sixteen") == "a"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_plain_keys_that_others_may_read_are_refused_and_hashes_are_not(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InvalidArgument, match="others may read"):
        ApiKeys.from_file(keys_file(tmp_path, f"a {KEY}", mode))
    assert ApiKeys.from_file(keys_file(tmp_path, f"a {HASH}", mode))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no keys"),
        ("# only this", "no keys"),
        (f"a {KEY}\nsecret-thing", "line 2 .* 1 words"),
        (f"a {KEY} more", "3 words"),
        (f"a/b {KEY}", "line 1 .* tenant"),
        ("a secret-short", "line 1 .* 16 to 512"),
        ("a sha256:12", "64 hex"),
        (f"a {KEY}é", "ASCII"),
        (f"a {KEY}\nb {KEY}", "line 2 .* twice"),
        (f"a {KEY}\nb sha256:{hashlib.sha256(KEY.encode()).hexdigest()}", "twice"),
        ("#" * (1 << 20) + "\nx", "more than"),
    ],
)
def test_a_file_at_fault_is_refused_by_line_without_its_keys(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        ApiKeys.from_file(keys_file(tmp_path, text))
    assert caught.value.field == "api_keys"
    assert KEY not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        ApiKeys.from_file(tmp_path / "none")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        ApiKeys.from_file(tmp_path)

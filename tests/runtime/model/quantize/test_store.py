from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch

from latticework.lang.errors import BrokenModel
from latticework.runtime.model.quantize.store import Keeper, Kept, key_of

MANY = 1 << 30


def keep(root: Path, key: str, limit: int = MANY, size: int = 64) -> None:
    keeper = Keeper(root, key, limit)
    keeper.add("one.int8", {"codes": torch.arange(size, dtype=torch.int8), "scales": torch.ones(2)})
    keeper.add("rest", {"embed": torch.arange(6, dtype=torch.bfloat16).view(2, 3)})
    keeper.finish()


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    root = tmp_path / "weights"
    assert Kept.find(root, "k") is None
    keep(root, "k")
    kept = Kept.find(root, "k")
    assert kept is not None
    kept.check(2)
    assert "one.int8" in kept
    assert "one.int4" not in kept
    assert torch.equal(kept.read("one.int8")["codes"], torch.arange(64, dtype=torch.int8))
    assert kept.read("rest")["embed"].dtype == torch.bfloat16
    assert [path.name for path in root.iterdir()] == ["k"]


def test_a_changed_byte_and_a_missing_file_are_found(tmp_path: Path) -> None:
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"), Path.unlink, Path.touch):
        keep(tmp_path, "k")
        kept = Kept.find(tmp_path, "k")
        assert kept is not None
        if damage is Path.touch:
            os.truncate(tmp_path / "k" / "rest.safetensors", 0)
        else:
            damage(tmp_path / "k" / "rest.safetensors")
        with pytest.raises(BrokenModel, match=r"rest\.safetensors is damaged"):
            kept.check(2)


@pytest.mark.parametrize("index", ["", "[1]", '{"rest": 1}', "[" * 100_000])
def test_a_damaged_index_is_no_folder(tmp_path: Path, index: str) -> None:
    keep(tmp_path, "k")
    (tmp_path / "k" / "index.json").write_text(index)
    assert Kept.find(tmp_path, "k") is None
    keep(tmp_path, "k")  # and is replaced
    assert Kept.find(tmp_path, "k") is not None


def test_an_unfinished_folder_is_never_found(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "k", MANY)
    keeper.add("rest", {"embed": torch.ones(2)})
    assert Kept.find(tmp_path, "k") is None
    keeper.discard()
    assert not list(tmp_path.iterdir())


def test_folders_not_used_for_longest_make_room(tmp_path: Path) -> None:
    for number, key in enumerate("abc"):
        keep(tmp_path, key, size=1000)
        os.utime(tmp_path / key / "index.json", (number, number))
    assert Kept.find(tmp_path, "a") is not None  # used now
    size = sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    keep(tmp_path, "d", limit=2 * size + 10, size=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]


def test_what_is_larger_than_allowed_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        keep(tmp_path, "k", limit=10)
    assert "larger than" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        keep(tmp_path / "file", "k")
    assert caplog.text.count("packed weights are not kept") == 1


def test_a_key_stands_for_every_fact() -> None:
    keys = {key_of("a", 1), key_of("a", 2), key_of("b", 1), key_of("a1"), key_of("a", "1", "")}
    assert len(keys) == 5
    assert key_of("a", 1) == key_of("a", 1)


def test_the_index_is_json(tmp_path: Path) -> None:
    keep(tmp_path, "k")
    assert set(json.loads((tmp_path / "k" / "index.json").read_text())) == {"one.int8", "rest"}

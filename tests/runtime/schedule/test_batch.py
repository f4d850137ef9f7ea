"""A batch is complete when built."""

from __future__ import annotations

from latticework.runtime.schedule.batch import Entry, build_batch


def test_entries_are_laid_end_to_end() -> None:
    batch = build_batch(
        [
            Entry([5, 6, 7], 6, [9, 4, 2], 1),
            Entry([8], 0, [3], 1),
            Entry([1, 2], 3, [7, 8], 0),
            Entry([4, 4], 1, [5], 2),
        ],
        page_size=4,
    )
    assert batch.tokens.tolist() == [5, 6, 7, 8, 1, 2, 4, 4]
    assert batch.positions.tolist() == [6, 7, 8, 0, 3, 4, 1, 2]
    assert batch.slots.tolist() == [18, 19, 8, 12, 31, 32, 21, 22]
    assert batch.starts.tolist() == [0, 3, 4, 6, 8]
    assert batch.lengths.tolist() == [9, 1, 5, 3]
    assert batch.page_table.tolist() == [[9, 4, 2], [3, 0, 0], [7, 8, 0], [5, 0, 0]]
    assert batch.logit_rows.tolist() == [2, 3, 6, 7]
    assert not batch.is_decode


def test_one_token_each_is_a_decode_batch() -> None:
    assert build_batch([Entry([5], 6, [9, 4], 1), Entry([8], 0, [3], 1)], page_size=4).is_decode


def test_a_batch_may_want_no_logits() -> None:
    assert build_batch([Entry([5, 6], 0, [1], 0)], page_size=4).logit_rows.tolist() == []


def test_what_entries_share_is_computed_by_one_and_written_to_all() -> None:
    first = Entry([5, 6, 7, 8], 2, [9, 4], 1)  # positions 2 to 5
    second = Entry([30, 31], 5, [3, 2], 1, source=first, copied=3)  # 2 to 4 from the first, 5 and 6 its own
    third = Entry([40], 6, [7, 1], 1, source=second, copied=3)  # 3 to 5, of which 3 and 4 are the first's
    batch = build_batch([Entry([1], 0, [0], 1), first, second, third], page_size=4)
    assert batch.tokens.tolist() == [1, 5, 6, 7, 8, 30, 31, 40]
    assert batch.positions.tolist() == [0, 2, 3, 4, 5, 5, 6, 6]
    assert batch.copies.tolist() == [[1, 2, 3, 2, 3, 5], [14, 15, 8, 31, 4, 5]]
    assert batch.lengths.tolist() == [1, 6, 7, 7]


def test_nothing_is_copied_where_nothing_is_shared() -> None:
    assert build_batch([Entry([5, 6], 0, [1], 0)], page_size=4).copies.shape == (2, 0)

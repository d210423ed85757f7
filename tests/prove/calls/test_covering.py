"""Covering arrays: every pair of values of two options is in a row, in about as few rows as there can be."""

from itertools import combinations

import pytest

from fxmap.prove.calls.covering import Row, covering


def pairs_of(row: Row) -> set[tuple[tuple[int, int], ...]]:
    return set(combinations([(i, value) for i, value in enumerate(row) if value], 2))


def rows_of(counts: list[int], refused: tuple[int, ...] = ()) -> tuple[list[Row], list[Row]]:
    """Return the rows that were accepted and those that were refused: all with two or more of some options."""
    found: tuple[list[Row], list[Row]] = ([], [])

    def accepts(row: Row) -> bool:
        is_refused = sum(bool(row[i]) for i in refused) > 1
        found[is_refused].append(row)
        return not is_refused

    for _ in covering(counts, accepts):
        pass
    return found


@pytest.mark.parametrize("counts", [[1, 1], [3, 2, 1], [4, 4, 4, 4, 4], [5, 4, 1, 1, 1], [2, 0, 2]])
def test_every_pair_of_values_is_in_a_row(counts: list[int]) -> None:
    rows, _ = rows_of(counts)
    wanted = {
        ((i, one), (j, other))
        for i, j in combinations(range(len(counts)), 2)
        for one in range(1, counts[i] + 1)
        for other in range(1, counts[j] + 1)
    }
    assert set().union(*map(pairs_of, rows)) == wanted
    most = sorted(counts)[-1] * sorted(counts)[-2]
    assert most <= len(rows) <= 2 * most


def test_ten_options_take_far_fewer_rows_than_pairs() -> None:
    rows, _ = rows_of([3] * 10)
    assert len(rows) <= 24
    assert len(set().union(*map(pairs_of, rows))) == 45 * 9


def test_pairs_of_a_refused_row_are_tried_by_themselves() -> None:
    rows, refused = rows_of([1, 1, 1, 1], refused=(1, 3))
    assert set().union(*map(pairs_of, rows)) == {
        pair for pair in combinations([(i, 1) for i in range(4)], 2) if pair != ((1, 1), (3, 1))
    }
    assert (0, 1, 0, 1) in refused


def test_one_option_and_none_have_no_rows() -> None:
    assert rows_of([4]) == ([], [])
    assert rows_of([]) == ([], [])

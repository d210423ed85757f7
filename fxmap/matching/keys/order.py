"""The order of a file as evidence: the best set of pairs that do not cross each other."""

import numpy as np

from fxmap.matching.keys.scores import Candidates, Numbers, Scores
from fxmap.matching.keys.weights import LIMITS


def in_order(scores: Scores, pairs: Candidates, file_weight: float, block_weight: float) -> Scores:
    """Return a weight for the pairs on the best monotonic path, through the whole file and through each shape alone."""
    result = np.zeros(len(scores))
    if (pairs.src.max() + 1) * (pairs.dst.max() + 1) <= LIMITS.order_cells:
        result[best_path(scores, pairs.src, pairs.dst)] += file_weight
    for block in pairs.blocks:
        _, row = np.unique(pairs.src[block], return_inverse=True)
        _, column = np.unique(pairs.dst[block], return_inverse=True)
        result[block.start + best_path(scores[block], row, column)] += block_weight
    return result


def best_path(scores: Scores, rows: Numbers, columns: Numbers) -> Numbers:
    """Return the indices of the pairs on the path of the largest total score, on which rows and columns both increase.

    Needleman-Wunsch alignment without gap penalty (doi 10.1016/0022-2836(70)90057-4), row by row.

    >>> best_path(np.array([1.0, 5.0, 1.0]), np.array([0, 0, 1]), np.array([0, 1, 1])).tolist()
    [1]
    """
    if not len(scores):
        return np.zeros(0, np.int64)
    height, width = int(rows.max()) + 1, int(columns.max()) + 1
    by_row = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[by_row], np.arange(height + 1))
    total = np.zeros(width + 1)
    above, diagonal = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for row in range(height):
        of = by_row[starts[row] : starts[row + 1]]
        step = np.zeros(width)
        step[columns[of]] = scores[of]
        through = total[:-1] + step
        best = np.maximum(total[1:], through)
        # A cell is reached from the cells to its left at no cost.
        reached = np.maximum.accumulate(best)
        above[row] = reached == total[1:]
        diagonal[row] = (reached == through) & (step > 0)
        total[1:] = reached
    path = []
    row, column = height - 1, width - 1
    while row >= 0 and column >= 0:
        if above[row, column]:
            row -= 1
        elif diagonal[row, column]:
            path.append(row * width + column)
            row, column = row - 1, column - 1
        else:
            column -= 1
    cells = rows * width + columns
    by_cell = np.argsort(cells)
    return by_cell[np.searchsorted(cells[by_cell], np.array(path[::-1], np.int64))]

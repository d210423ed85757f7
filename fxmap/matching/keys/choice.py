"""The choice among scored pairs: one source entry for each destination entry, and the margin of that choice."""

import numpy as np

from fxmap.matching.keys.groups import look_up
from fxmap.matching.keys.scores import Candidates, Numbers, Scores
from fxmap.matching.keys.weights import LIMITS

# The score of a pair that is no candidate: less than any sum of weights.
_IMPOSSIBLE = -1e3


def assigned(scores: Scores, pairs: Candidates, block: slice) -> Numbers:
    """Return the indices of the pairs in one block (of one shape) that an optimal assignment chooses."""
    row, column = (np.unique(part[block], return_inverse=True)[1] for part in (pairs.src, pairs.dst))
    numbers: Numbers = block.start + _assignment(scores[block], row, column)
    return numbers


def _assignment(scores: Scores, row: Numbers, column: Numbers) -> Numbers:
    """Return the indices of the pairs with the largest total score, at most one in each row and in each column."""
    from scipy.optimize import linear_sum_assignment  # imported here: it takes a third of a second
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    height, width = int(row.max()) + 1, int(column.max()) + 1
    if height * width <= LIMITS.block_cells:
        gain = np.full((height, width), _IMPOSSIBLE)
        gain[row, column] = scores
        i, j = linear_sum_assignment(-gain)
        kept = gain[i, j] > _IMPOSSIBLE
        i, j = i[kept], j[kept]
    else:
        # Few of the cells are possible. Each row gets an extra column of its own, at a price, so that an assignment exists.
        price = float(scores.max() - scores.min()) * 2 + 1
        cost = np.concatenate([scores.max() + 1 - scores, np.full(height, price + 1)])
        places = (np.concatenate([row, np.arange(height)]), np.concatenate([column, width + np.arange(height)]))
        i, j = min_weight_full_bipartite_matching(csr_matrix((cost, places), (height, width + height)))
        kept = j < width
        i, j = i[kept], j[kept]
    cells = row * width + column
    by_cell: Numbers = np.argsort(cells)
    found: Numbers = by_cell[np.searchsorted(cells[by_cell], i * width + j)]
    return found


def margins(values: Scores, pairs: Candidates, block: slice, numbers: Numbers, orbit: Numbers) -> Scores:
    """Return, for each chosen pair, the loss of the best exchange with another chosen pair or an unassigned entry.

    Exchanges inside an orbit have no effect, and do not count.
    """
    scores, chosen = values[block], numbers - block.start
    row, column = (np.unique(part[block], return_inverse=True)[1] for part in (pairs.src, pairs.dst))
    height, width = int(row.max()) + 1, int(column.max()) + 1
    of_row, of_column = np.full(height, -1), np.full(width, -1)
    of_row[row[chosen]] = of_column[column[chosen]] = np.arange(len(chosen))
    own = np.append(scores[chosen], 0.0)
    first, second = of_row[row], of_column[column]
    cells = row * width + column
    by_cell = np.argsort(cells)
    # The fourth corner of the exchange: the other pair's source for this pair's destination.
    other_row, other_column = np.append(row[chosen], 0)[second], np.append(column[chosen], 0)[first]
    crossed = look_up(cells[by_cell], scores[by_cell], other_row * width + other_column, _IMPOSSIBLE)
    loss = own[first] + own[second] - scores - np.where((first >= 0) & (second >= 0), crossed, 0.0)
    margin = np.full(len(chosen) + 1, np.inf)
    orbits_chosen = np.append(orbit[pairs.dst[numbers]], -1)
    apart = (first != second) & ((first < 0) | (orbits_chosen[first] != orbit[pairs.dst[block]]))
    np.minimum.at(margin, first[apart], loss[apart])
    np.minimum.at(margin, second[apart], loss[apart])
    return margin[:-1]

"""All weights and limits of matching by names.

Tuned on `python -m benchmarks names`, which counts the keys of pairs of real key trees that are right, wrong and left open.
A wrong key costs more than an open one, so that the margins leave a key open when in doubt.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NameWeights:
    """Weights of each kind of evidence in the score of a pair of keys, and the margins that a choice must have."""

    # A pair by itself: weights of equal or similar properties.
    path: float = 2.0  # equal paths, times the share of the keys whose path both sides have
    leaf: float = 0.5  # equal last names, such as `weight`
    shape: float = 0.1  # equal shapes, axes of length one included
    words: float = 1.0  # similarity of the words of the paths
    owner: float = 0.8  # overlap of the tensors that the two modules hold
    agrees: float = 0.4  # one word of the field in both names, such as q and query
    contradicts: float = 3.0  # two words of the field that exclude one another, such as q and key: subtracted
    repeated: float = 0.5  # one is repeated in every block of a list, the other occurs once: subtracted
    neighbours: float = 0.5  # share of neighbours in the file of equal sizes, times how far order is evidence

    # Evidence from other pairs, by the soft matches of each round.
    modules: float = 2.0  # agreement of the modules around the keys: the strongest, as blocks correspond as a whole
    module: float = 1.0  # agreement of the module itself, from nothing in the first round to this in the last
    kinds: float = 2.0  # agreement of kinds of names, such as conv1 and convolution
    rarity: float = 0.5  # exponent: an entry of which n have the size counts n ** -rarity for its module
    file_order: tuple[float, float] = (0.6, 0.2)  # the best path through the whole file, first and last round: it yields
    list_order: float = 1.0  # the best path through numbered lists, where files are sorted by name
    lists: float = 3.0  # of two lists, the share of modules in order counts so often, and in full from 1 on
    block_order: float = 0.4  # the best path through the keys of one shape
    sharpness: tuple[float, ...] = (4.0, 6.0, 8.0, 10.0, 12.0, 14.0)  # how strongly soft matches prefer the best, by round
    lean: float = 1.0  # decides between two branches that nothing else tells apart: any number that breaks the tie

    # Margins: the least loss of the best other choice.
    margin: float = 0.3  # by exchanging one key, where both files have the same order
    margin_sorted: float = 0.6  # by exchanging one key, where a file is sorted by name
    margin_without_order: float = 2.8  # by exchanging one key, where order says nothing
    module_margin_sorted: float = 1.0  # by exchanging whole modules, where a file is sorted by name
    module_margin: float = 0.6  # by exchanging whole modules
    little_order: float = 0.7  # below this agreement of the orders, the margin of whole modules is checked too
    # From this share of the possible excess over chance on, the order of modules counts in full: blocks in order whose
    # parts are not in order reach 0.3, shuffled models 0.05.
    beyond_chance: float = 0.25


@dataclass(frozen=True, slots=True)
class NameLimits:
    """Bounds on time and memory, and where a number is too small to matter."""

    reach: int = 6  # neighbours to each side whose sizes are compared
    sorted_choices: int = 5  # kinds of neighbours in the order of their names: fewer may be by chance
    sorted_run: int = 50  # keys in order, on average, for each one that goes back, in a file that is sorted part by part
    pairs: int = 250_000  # pairs of one block of equal shapes; above it each key is paired only with those near its place
    module_pairs: int = 100_000_000  # pairs of modules, above which the order is not tested against chance
    order_cells: int = 100_000_000  # pairs of keys, above which the order of the whole file is not used
    group_cells: int = 4_000_000  # pairs of groups, above which only those that occur are stored
    block_cells: int = 1_000_000  # pairs of one block, above which the assignment is made on a sparse matrix
    unlikely: float = 1e-3  # soft matches of a smaller share are left out of the groups' counts


WEIGHTS = NameWeights()
LIMITS = NameLimits()

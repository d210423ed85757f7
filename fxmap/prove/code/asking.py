"""Asking: functions by which code asks for what is no number, or infinite.

Cost: none.
"""

ASKING = frozenset({
    "isnan", "isinf", "isfinite", "isneginf", "isposinf", "nan_to_num", "nan_to_num_", "nansum", "nanmean", "nanmedian",
    "nanquantile",
})  # fmt: skip
# Of a number that is none, and of no other, these say that it is unlike itself.
SAME = frozenset({"ne", "eq", "__ne__", "__eq__", "not_equal"})

"""Solve, then recognise: the weights of the destination as solutions of linear systems.

Nearly every value of a network is affine in the weights of the layer that makes it, whatever operations spell the layer: a
convolution, patches and a product, an einsum, a one-hot product, a list of heads. So the source runs on random weights and
inputs, and the destination beside it, as far as it is known. The first values that are affine in unknown weights must be
values of the source; which one is seen by a residual of 0, element by element, over more samples than there are unknowns.
What was solved is then recognised: numbers that are the source's own tell a rename, a permutation, a slice or a join, and
others are the effective weight of a stretch of the source. Where nothing fits, the last choice is taken back.

The order to read: `static`, `samples`, `stacked` (values of many samples), `source` (its values and numbers), `unknowns`,
`frontier` (how far the destination is known), `systems`, `signatures` (numbers told by what they are multiplied by), `uses`
and `places` (elements told by where they are read), `orders`, `factors`, `recent` (a table of what was found), `fitting`,
`natural`, `choices`, `guesses` (weights that no value is affine in), `effort`, `search`, `arrange`, `express` (expressions),
`weights` (all of it), `anchors` (what corresponds under the weights that were found).

Cost: one run of each model on some tens to hundreds of samples; for each value to solve for, one backward pass for each of
its channels, one factorisation, and one product with all values of the source. Networks of more than three million weights
are not tried, and a search ends when its effort, which grows with the networks, is spent.
"""

"""The ladder of sources of graphs, the best one first. A new source is one file and one entry here.

Symbolic tracing comes first: it needs no inputs, and its graph holds for all of them. What it cannot trace is recorded in a
run on example inputs; both models then, so that their graphs speak of the same operations. What does not run either is
mapped by names and shapes.
"""

from fxmap.capture.recorded import RECORDED
from fxmap.capture.source import GraphSource
from fxmap.capture.symbolic import SYMBOLIC

LADDER: tuple[GraphSource, ...] = (SYMBOLIC, RECORDED)

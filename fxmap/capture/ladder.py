"""The ladder of sources of graphs, the best one first. A new source is one file and one entry here.

Symbolic tracing comes first: it needs no inputs, and its graph is valid for all of them. If it cannot trace one of the
models, both are recorded in a run on example inputs, so that their graphs have the same kinds of operations. Models that do
not run either are mapped by names and shapes.
"""

from fxmap.capture.recorded import RECORDED
from fxmap.capture.source import GraphSource
from fxmap.capture.symbolic import SYMBOLIC

LADDER: tuple[GraphSource, ...] = (SYMBOLIC, RECORDED)

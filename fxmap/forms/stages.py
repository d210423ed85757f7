"""Stages of quantization on the way from float to int8; forms may share them, as eager and FX graph mode do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of quantization, with the properties on which filling a model depends.

    `has_ranges` says that activations are quantized with ranges that come from calibration data, `takes_calibration` that
    calibration data can be used, for ranges or for observers, and `is_qat` that weights are scaled by their batch norm, and
    fake-quantized, in every forward. `runs_int8` says that values stay int8 from one operation to the next, so that a float
    layer between them fails and a range that ends early saturates. `ranges_in_graph` says that ranges are literals of the
    graph, and not in the state dict, which still has tensors that the graph no longer reads.
    """

    name: str
    has_ranges: bool = False
    takes_calibration: bool = False
    is_qat: bool = False
    runs_int8: bool = False
    ranges_in_graph: bool = False

    @property
    def is_prepared(self) -> bool:
        """Whether a model of this stage has observers, whose ranges its conversion to int8 would use."""
        return self.is_qat or (self.takes_calibration and not self.has_ranges)

    def __str__(self) -> str:
        return self.name


FLOAT = Stage("float")
QUANTIZABLE = Stage("quantizable")
FUSED = Stage("fused")
FUSED_QAT = Stage("fused for QAT")
PREPARED = Stage("prepared with observers", takes_calibration=True)
QAT = Stage("prepared for QAT", is_qat=True)
DYNAMIC = Stage("converted, dynamic int8")
CONVERTED = Stage("converted, static int8", has_ranges=True, takes_calibration=True, runs_int8=True)
REFERENCE = Stage("converted to reference modules, static int8", has_ranges=True, takes_calibration=True)
PT2E_PREPARED = Stage("prepared with observers (PT2E)", takes_calibration=True)
PT2E_QAT = Stage("prepared for QAT (PT2E)", is_qat=True)
PT2E_CONVERTED = Stage("converted (PT2E), static int8", has_ranges=True, takes_calibration=True, ranges_in_graph=True)
WRAPPED = Stage("torchao, quantized weights")
WRAPPED_QAT = Stage("torchao, prepared for QAT")

"""How far a model has gone on the way from float to int8."""

from enum import StrEnum


class Stage(StrEnum):
    """How far a model has gone on the way from float to int8."""

    FLOAT = "float"
    QUANTIZABLE = "quantizable"
    FUSED = "fused"
    FUSED_QAT = "fused for QAT"
    PREPARED = "prepared with observers"
    QAT = "prepared for QAT"
    DYNAMIC = "converted, dynamic int8"
    CONVERTED = "converted, static int8"
    REFERENCE = "converted to reference modules, static int8"
    PT2E_PREPARED = "prepared with observers (PT2E)"
    PT2E_QAT = "prepared for QAT (PT2E)"
    PT2E_CONVERTED = "converted (PT2E), static int8"
    WRAPPED = "torchao, quantized weights"
    WRAPPED_QAT = "torchao, prepared for QAT"

    @property
    def has_ranges(self) -> bool:
        """Whether activations are quantized with ranges that come from calibration data."""
        return self in (Stage.CONVERTED, Stage.REFERENCE, Stage.PT2E_CONVERTED)

    @property
    def is_qat(self) -> bool:
        """Whether weights are scaled by their batch norm, and fake-quantized, in every forward."""
        return self in (Stage.QAT, Stage.PT2E_QAT)

    @property
    def takes_calibration(self) -> bool:
        """Whether calibration data can be used: for ranges, or for observers."""
        return self.has_ranges or self in (Stage.PREPARED, Stage.PT2E_PREPARED)

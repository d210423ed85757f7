"""Stand-ins for what old packages import and newer releases have removed; none of them takes part in any computation."""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch


def install_pkg_resources() -> None:
    """Give mmengine and others the names that they import of setuptools' removed pkg_resources."""
    try:
        importlib.import_module("pkg_resources")
    except ImportError:
        from packaging.version import Version

        module = ModuleType("pkg_resources")
        module.parse_version = Version  # type: ignore[attr-defined]
        module.DistributionNotFound = type("DistributionNotFound", (Exception,), {})  # type: ignore[attr-defined]
        module.get_distribution = _not_found  # type: ignore[attr-defined]
        module.resource_filename = lambda package, name: name  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = module


def _not_found(name: str) -> Any:
    raise sys.modules["pkg_resources"].DistributionNotFound(name)


def install_nf4() -> None:
    """Give torchtune the names that it imports of torchao's removed NF4 tensors."""
    nf4 = ModuleType("torchao.dtypes.nf4tensor")
    nf4.NF4Tensor = type("NF4Tensor", (torch.Tensor,), {})  # type: ignore[attr-defined]
    nf4.implements = lambda *args, **kwargs: lambda function: function  # type: ignore[attr-defined]
    nf4._INNER_TENSOR_NAMES_FOR_SHARDING = []  # type: ignore[attr-defined]
    for name in ("linear_nf4", "to_nf4", "nf4_constructor"):
        setattr(nf4, name, None)
    try:
        dtypes: Any = importlib.import_module("torchao.dtypes")
    except ImportError:
        dtypes = sys.modules["torchao.dtypes"] = ModuleType("torchao.dtypes")
    sys.modules[nf4.__name__] = dtypes.nf4tensor = nf4
    dtypes.NF4Tensor, dtypes.to_nf4 = nf4.NF4Tensor, None

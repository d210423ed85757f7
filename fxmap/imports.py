"""Imports that an interrupt has cut: the half that is left is forgotten, so that the next import begins anew.

Python forgets a package whose import fails, and keeps those of its modules that were done. Imported again, the package takes
these for loaded: it lacks their names for good, or registers twice with them, which networkx refuses.

>>> import sys, types
>>> forget = half_of_imports()
>>> sys.modules["left.over"] = types.ModuleType("left.over")  # its package is not there
>>> forget()
>>> "left.over" in sys.modules
False

Cost: 0.1 ms.
"""

import sys
from collections.abc import Callable


def half_of_imports() -> Callable[[], None]:
    """Return the step that forgets modules that were imported since, and whose package was not."""
    before = set(sys.modules)

    def forget() -> None:
        for name in [name for name in list(sys.modules) if name not in before and _is_orphan(name)]:
            sys.modules.pop(name, None)

    return forget


def _is_orphan(name: str) -> bool:
    parents = name.split(".")[:-1]
    return any(".".join(parents[: depth + 1]) not in sys.modules for depth in range(len(parents)))

"""Copies of what modules hold: dicts, lists, objects, closures and bound methods, down to what cannot be changed.

A module keeps more than tensors: counters, caches, configs, hooks that write to a dict outside. Code that runs on a replica
may change any of it, so the replica has its own. `copy.deepcopy` is not the tool: it stops at the first lock or open file,
copies what classes of torch share on purpose, and calls code of the user.

Cost: linear in what is held.
"""

import functools
import inspect
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.model.restoring import let_through

# Classes of these packages are parts of torch's machinery, and are shared: graphs, hooks' handles, qconfigs.
_MACHINERY = frozenset({"torch", "torchao", "builtins", "typing", "types", "abc", "enum", "weakref", "threading", "logging"})

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType, range, slice)

_SHARED = (*_PLAIN, fx.Graph, fx.Node, torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format)


class Copier:
    """Copies values; what was met before, as a module or a tensor of the model, is its one copy everywhere.

    `copied` maps the id of an original to its copy, `module` and `tensor` make the copies of modules and tensors.
    """

    def __init__(self, module: Callable[[nn.Module], nn.Module], tensor: Callable[[Tensor], Tensor]) -> None:
        self.copied: dict[int, Any] = {}
        # Ids are those of objects that live.
        self.originals: list[Any] = []
        # Ids of copies, which are not copied again.
        self.made: set[int] = set()
        self._module, self._tensor = module, tensor

    def remember(self, original: Any, copy: Any) -> Any:
        """Note the copy of an original, and return it."""
        self.copied[id(original)] = copy
        self.originals.append(original)
        self.made.add(id(copy))
        return copy

    def copy(self, value: Any) -> Any:
        """Return the copy of a value; the value itself where it cannot change, or cannot be copied."""
        # By its class alone: an object of the user may say that it is of another one, or raise when it is asked.
        if issubclass(type(value), _SHARED):
            return value
        if id(value) in self.copied:
            return self.copied[id(value)]
        if id(value) in self.made:
            return value
        try:
            return self._copy(value)
        except (RecursionError, MemoryError):
            raise
        except Exception as error:  # a class of the user whose objects cannot be made this way: it stays shared
            let_through(error)
            return self.remember(value, value)

    def _copy(self, value: Any) -> Any:
        if type(value) in _WEAK:
            return self._weak(value)
        if isinstance(value, Tensor):
            return self.remember(value, self._tensor(value))
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, torch.Generator):
            return self.remember(value, value.clone_state())
        if isinstance(value, dict | list | set | deque | bytearray):
            return self._container(value)
        if isinstance(value, tuple | frozenset):
            return self._frozen(value)
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.copy(value.__self__))
        if isinstance(value, functools.partial):
            return self._partial(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.SimpleNamespace):
            twin = self.remember(value, type(value)())
            self._attributes(value, twin)
            return twin
        if isinstance(value, Iterator) and type(value).__module__ == "builtins":
            return self._iterator(value)
        return self._object(value)

    def _weak(self, value: Any) -> Any:
        """Copy a weak reference to what has a copy, which the replica holds; any other one is shared."""
        target = value() if isinstance(value, weakref.ref) else _target(value)
        if id(target) not in self.copied:
            return value
        make: Any = weakref.ref if isinstance(value, weakref.ref) else weakref.proxy
        return self.remember(value, make(self.copied[id(target)]))

    def _container(self, value: Any) -> Any:
        kind: Any = type(value)
        if isinstance(value, deque):
            return self.remember(value, kind((self.copy(part) for part in value), value.maxlen))
        twin = self.remember(value, kind.__new__(kind))
        # The methods of the builtin base: a class may forbid to set items, or do more than that.
        if isinstance(value, dict):
            base = OrderedDict if isinstance(value, OrderedDict) else dict
            if isinstance(value, defaultdict):
                twin.default_factory = value.default_factory
            for key, part in list(base.items(value)):
                base.__setitem__(twin, self.copy(key) if isinstance(key, nn.Module | Tensor) else key, self.copy(part))
        elif isinstance(value, list):
            list.extend(twin, [self.copy(part) for part in list.__iter__(value)])
        elif isinstance(value, set):
            set.update(twin, {self.copy(part) for part in set.__iter__(value)})
        else:
            twin[:] = value
        self._attributes(value, twin)
        return twin

    def _frozen(self, value: Any) -> Any:
        parts = [self.copy(part) for part in value]
        if all(one is other for one, other in zip(parts, value, strict=True)):
            return self.remember(value, value)
        kind: Any = type(value)
        made = kind._make(parts) if hasattr(kind, "_make") else kind(parts)
        return self.remember(value, made)

    def _partial(self, value: Any) -> Any:
        function, args, keywords = self.copy(value.func), self.copy(value.args), self.copy(value.keywords)
        return self.remember(value, type(value)(function, *args, **keywords))

    def _iterator(self, value: Any) -> Any:
        """Copy an iterator over a list, a range, a tuple, ...; that of a generator cannot be copied, and stays shared."""
        make, arguments, *state = value.__reduce__()
        twin = self.remember(value, make(*self.copy(arguments)))
        if state:
            twin.__setstate__(state[0])
        return twin

    def _function(self, value: types.FunctionType) -> Any:
        """Copy a function whose closure holds something that is copied; its code and globals are shared."""
        if not value.__closure__:
            return self.remember(value, value)
        cells = tuple(types.CellType() for _ in value.__closure__)
        twin = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        twin.__kwdefaults__, twin.__qualname__, twin.__module__ = value.__kwdefaults__, value.__qualname__, value.__module__
        twin.__dict__.update(value.__dict__)
        self.remember(value, twin)
        for cell, own in zip(cells, value.__closure__, strict=True):
            try:
                cell.cell_contents = self.copy(own.cell_contents)
            except ValueError:  # an empty cell
                continue
        return twin

    def _object(self, value: Any) -> Any:
        kind = type(value)
        if kind.__module__.partition(".")[0] in _MACHINERY:
            return self.remember(value, value)
        if not _is_made_of_attributes(kind):
            return self.remember(value, deepcopy(value, self.copied))
        twin = self.remember(value, object.__new__(kind))
        self._attributes(value, twin)
        return twin

    def _attributes(self, value: Any, twin: Any) -> None:
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            vars(twin).update({name: self.copy(part) for name, part in list(own.items())})
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                name = f"_{kind.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
                if inspect.ismemberdescriptor(vars(kind).get(name)) and hasattr(value, name):
                    object.__setattr__(twin, name, self.copy(getattr(value, name)))


def _is_made_of_attributes(kind: Any) -> bool:
    """Whether an object is no more than its attributes: its class has no base in C, and says nothing of copies."""
    if hasattr(kind, "__deepcopy__") or not kind.__flags__ & _HEAP:
        return False
    return all(getattr(kind, name) is getattr(object, name) for name in ("__reduce__", "__reduce_ex__", "__new__"))


_WEAK = (weakref.ref, weakref.ProxyType, weakref.CallableProxyType)


def _target(proxy: Any) -> Any:
    """Return the object that a weak proxy stands for; None where it is gone, or does not tell."""
    try:
        return proxy.__init__.__self__
    except (ReferenceError, AttributeError):
        return None


# Py_TPFLAGS_HEAPTYPE: a class that Python code made.
_HEAP = 1 << 9

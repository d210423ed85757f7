"""A replica runs the user's code, and whatever that code changes is the replica's own."""

import operator
import threading
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxmap.model.memory import on_own_memory
from fxmap.model.replica import named_tensors, replicate, unchanged


def test_a_replica_has_tensors_of_its_own_and_keeps_shared_modules_shared() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    twin = replicate(model)
    first = twin.get_submodule("0")
    assert first is twin.get_submodule("2")
    assert first is not layer
    assert first.weight is not layer.weight
    assert isinstance(first.weight, nn.Parameter)
    assert torch.equal(first.weight, layer.weight)
    assert [path for path, _, _ in named_tensors(twin)] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_large_weights_are_not_copied_until_something_writes_to_them() -> None:
    model = nn.Embedding(300, 40, max_norm=1.0)
    before = model.weight.detach().clone()
    twin: Any = replicate(model)
    assert twin.weight.data_ptr() == model.weight.data_ptr()
    on_own_memory(twin, twin.weight.relu)
    assert twin.weight.data_ptr() == model.weight.data_ptr()
    expected = F.embedding(torch.arange(300), before.clone(), max_norm=1.0)
    assert torch.equal(on_own_memory(twin, lambda: twin(torch.arange(300))), expected)
    assert twin.weight.data_ptr() != model.weight.data_ptr()
    assert torch.equal(model.weight, before)


def test_tensors_that_lie_in_one_memory_still_do_when_it_is_copied() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(20_000))
            self.register_buffer("lower", self.weight.data[:10_000])

    model = Halves()
    twin = replicate(model, own=True)
    with torch.no_grad():
        twin.weight.zero_()
    assert not twin.lower.any()
    assert model.lower.all()


class Settings(OrderedDict[str, Any]):
    """A dict whose items are attributes as well, and that forbids to set others."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        for name, value in items.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "frozen", True)

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "frozen", False):
            raise TypeError("frozen")
        super().__setattr__(name, value)


class Variable:
    """A plain object around a parameter."""

    __slots__ = ("__hidden", "value")

    def __init__(self, value: Tensor) -> None:
        self.value, self.__hidden = value, [0]

    def count(self) -> list[int]:
        self.__hidden[0] += 1
        return self.__hidden


class Rich(nn.Module):
    """A module that holds state in every way that Python has."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.settings: Any = Settings(scale=2.0, seen=[0])
        self.variable = Variable(self.fc.weight)
        self.nested: Any = {"a": [0, {"b": deque([1], maxlen=3)}], "layers": (self.fc,), self.fc: "by module"}
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.plain = [self.fc]
        self.unregistered = (nn.Linear(3, 3),)
        self.lock = threading.Lock()
        self.table = torch.zeros(2)
        self.space: Any = types.SimpleNamespace(runs=[0])
        self.numbers: Any = iter(range(100))
        self.zipped: Any = zip(iter([1, 2, 3] * 9), enumerate(iter((1, 2, 3) * 9)), strict=True)
        self.generator = torch.Generator().manual_seed(0)
        self.closure: Any = lambda x, scale=1: self.fc(x) * scale
        seen: dict[str, int] = {"hook": 0}
        self.seen = seen
        self.me = {"self": self}

        def hook(*_: Any) -> None:
            seen["hook"] += 1

        self.fc.register_forward_hook(hook)

    def forward(self, x: Tensor) -> Tensor:
        self.nested["a"][0] += 1
        self.nested["a"][1]["b"].append(2)
        self.counts["runs"] += 1
        self.settings["seen"][0] += 1
        self.variable.count()
        self.table += 1
        self.fc.requires_grad_(False)
        self.unregistered[0].weight.data.zero_()
        self.generator.seed()
        self.space.runs[0] += 1
        next(self.numbers)
        next(self.zipped)
        self.made: Any = x
        out: Tensor = self.closure(x) @ self.variable.value * self.settings.scale
        return out


def _everything(model: Rich) -> list[Any]:
    deep = [repr(value) for value in (model.nested["a"], dict(model.counts), model.settings, model.seen, model.table)]
    slots = [model.variable._Variable__hidden[0]]  # type: ignore[attr-defined]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    values = [float(model.unregistered[0].weight.detach().abs().sum()), model.generator.initial_seed(), sorted(vars(model))]
    left = [operator.length_hint(model.numbers), model.space.runs[0], repr(model.zipped.__reduce__()[1][0].__reduce__()[-1])]
    return [*deep, *slots, *grads, *values, *left]


def test_whatever_forward_changes_is_the_replicas_own() -> None:
    model = Rich()
    before = _everything(model)
    twin = replicate(model)
    x = torch.randn(2, 3)
    twin(x)
    assert _everything(model) == before
    assert _everything(twin) != before  # type: ignore[arg-type]
    assert torch.equal(twin(x), model(x))


def test_a_replica_points_into_itself() -> None:
    model: Any = Rich()
    twin: Any = replicate(model)
    assert twin.variable.value is twin.fc.weight
    assert twin.plain[0] is twin.nested["layers"][0] is twin.fc
    assert twin.fc in twin.nested
    assert twin.me["self"] is twin
    assert type(twin.settings) is Settings
    assert vars(twin.settings)["frozen"]
    assert twin.lock is model.lock
    assert twin.unregistered[0] is not model.unregistered[0]


def test_a_parametrized_and_a_scripted_module_have_replicas() -> None:
    plain = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    for model in (plain, torch.jit.script(nn.Linear(2, 2)), nn.Sequential(torch.jit.script(nn.Linear(2, 2)))):
        twin = replicate(model)
        assert torch.equal(twin(torch.ones(1, 2)), model(torch.ones(1, 2)))
        with torch.no_grad():
            next(twin.parameters()).zero_()
        assert next(model.parameters()).any()


def test_a_lazy_layer_stays_lazy_when_its_replica_runs() -> None:
    model = nn.LazyLinear(2)
    replicate(model)(torch.ones(1, 3))
    assert model.has_uninitialized_params()


def test_nesting_that_python_cannot_follow_is_shared() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nested: list[Any] = []
            for _ in range(100_000):
                self.nested = [self.nested]

    assert isinstance(replicate(Deep()), Deep)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_attributes_buffers_and_parameters_come_back_after_a_run(interrupt: Callable[[], BaseException]) -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.count: Tensor
            self.register_buffer("count", torch.zeros(1))
            self.size = 3

        def forward(self) -> None:
            self.weight = nn.Parameter(torch.zeros(5))
            self.count += 1
            self.register_buffer("other", torch.ones(1))
            self.size = 7
            raise interrupt()

    model: Any = Changing()
    with pytest.raises((KeyboardInterrupt, RuntimeError)), unchanged(model):
        model()
    assert model.weight.tolist() == [1, 1]
    assert model.count.item() == 0
    assert model.size == 3
    assert "other" not in dict(model.named_buffers())


def test_memory_that_runs_out_while_a_model_is_copied_is_no_reason_to_share_what_it_holds() -> None:
    class Spent:
        def __deepcopy__(self, memo: object) -> object:
            raise MemoryError

    model = nn.Linear(2, 2)
    vars(model)["spent"] = Spent()
    with pytest.raises(MemoryError):
        replicate(model)


def test_a_buffer_that_code_gives_other_memory_has_its_own_again_after_a_run() -> None:
    model = nn.BatchNorm1d(2)
    for harm in (lambda t: t.resize_(7), lambda t: setattr(t, "data", torch.ones(5))):
        with unchanged(model):
            harm(model.running_mean)
        assert torch.equal(model.get_buffer("running_mean"), torch.zeros(2))

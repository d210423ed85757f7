"""The mappers: fxmap, and the peers that can be installed. Each is a function of a problem, or of two key trees alone."""

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxmap
from benchmarks.accuracy.problems import Answer, Problem
from benchmarks.names.data import Tree, without_numbers
from benchmarks.names.peers import PEERS
from fxmap.matching.keys.mapper import map_by_name

OURS = "fxmap"
_LEFT = (fxmap.Status.KEPT, fxmap.Status.MISSING, fxmap.Status.MISMATCHED)


@dataclass(frozen=True)
class Mapper:
    """A mapper by name: `run` answers a problem, `trees` answers for two key trees alone; `needs` are its packages."""

    run: Callable[[Problem], Answer] | None = None
    trees: Callable[[Tree, Tree], Mapping[str, Any]] | None = None
    needs: tuple[str, ...] = ()

    def load(self) -> None:
        """Import what the mapper needs.

        Raises:
            ImportError: it is not installed.
        """
        for name in self.needs:
            importlib.import_module(name)


def tree_of(model: nn.Module) -> Tree:
    """Return keys, shapes and dtypes of a model's tensors."""
    state = nn.Module.state_dict(model)
    return [(key, list(v.shape), str(v.dtype)) for key, v in state.items() if isinstance(v, Tensor)]


def _by_trees(mapper: Callable[[Tree, Tree], Mapping[str, str]], problem: Problem) -> Answer:
    return Answer(copied(problem, mapper(tree_of(problem.src), tree_of(problem.dst))))


def copied(problem: Problem, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the source's values for destination keys, in the destination's shape where they have as many elements."""
    src, dst = nn.Module.state_dict(problem.src), nn.Module.state_dict(problem.dst)
    made = {}
    for key, source in keys.items():
        value, own = src[source], dst.get(key)
        same_size = isinstance(own, Tensor) and isinstance(value, Tensor) and own.numel() == value.numel()
        made[key] = value.reshape(own.shape) if same_size and isinstance(own, Tensor) else value
    return made


# --- fxmap


def _fxmap(problem: Problem, *, verify: bool) -> Answer:
    if problem.calibration is None:
        mapping = fxmap.auto_map(problem.src, problem.dst, verify=verify, **problem.options)
        made = dict(mapping.apply(problem.src.state_dict()))
    else:
        mapping = fxmap.transfer(problem.src, problem.dst, calibration=problem.calibration, verify=verify, **problem.options)
        made = {key: value for key, value in problem.dst.state_dict().items() if mapping.status(key) not in _LEFT}
    proven = frozenset(key for key, status in mapping.knowledge.statuses.items() if status is fxmap.Status.PROVEN)
    return Answer(made, mapping.proof.ok, proven)


def _fxmap_names(problem: Problem) -> Answer:
    src, dst = problem.src.state_dict(), problem.dst.state_dict()
    return Answer(map_by_name(src, dst, "names alone").apply(src))


def _fxmap_trees(src: Tree, dst: Tree) -> Mapping[str, Any]:
    return map_by_name(without_numbers(src), without_numbers(dst), "names alone")


# --- peers that look at the models


def _iatransfer(problem: Problem) -> Answer:
    """Ask iatransfer, which writes into the destination: what it changed is what it made."""
    from iatransfer.toolkit import IAT

    target = copy.deepcopy(problem.dst)
    before = {key: value.clone() for key, value in target.state_dict().items() if isinstance(value, Tensor)}
    with contextlib.redirect_stdout(io.StringIO()):
        IAT()(problem.src, target)
    after = target.state_dict()
    return Answer({key: after[key] for key, old in before.items() if not torch.equal(after[key], old)})


def _lit_wsl(problem: Problem, *, strategy: str) -> Answer:
    """Ask lit_wsl's WeightMapper with both models, buffers included; its check of the outputs is its verdict."""
    from lit_wsl.mapper.weight_mapper import WeightMapper

    logging.disable(logging.WARNING)
    mapper = WeightMapper(problem.src, problem.dst, buffer_matching_mode="strict", dummy_input=problem.inputs[0])
    found = mapper.suggest_mapping(strategy=strategy)
    check = found.output_validation
    made = copied(problem, {theirs: ours for ours, theirs in found.get_mapping().items()})
    return Answer(made, None if check is None else check.validation_passed)


def _graph_matcher(problem: Problem) -> Answer:
    """Ask torch.ao.ns, which pairs modules; their tensors are paired by name."""
    from torch.ao.ns.fx.graph_matcher import get_matching_subgraph_pairs

    src, dst = fx.symbolic_trace(problem.src), fx.symbolic_trace(problem.dst)
    keys = {}
    for ours, theirs in get_matching_subgraph_pairs(src, dst).values():
        for one, other in zip(_modules_of(ours), _modules_of(theirs), strict=False):
            known = src.get_submodule(one).state_dict()
            for leaf, value in dst.get_submodule(other).state_dict().items():
                if isinstance(known.get(leaf), Tensor) and isinstance(value, Tensor) and known[leaf].shape == value.shape:
                    keys[f"{other}.{leaf}"] = f"{one}.{leaf}"
    return Answer(copied(problem, keys))


def _modules_of(subgraph: Any) -> Iterator[str]:
    """Yield the modules that a subgraph calls, first to last."""
    found, node = [], subgraph.end_node
    while True:
        if node.op == "call_module":
            found.append(str(node.target))
        if node is subgraph.start_node or not node.args or not isinstance(node.args[0], fx.Node):
            return iter(reversed(found))
        node = node.args[0]


# Of the mappers of names and shapes: what they import.
_PACKAGES = {
    "timm remap": ("timm.models",),
    "weightbridge": ("weightbridge",),
    "weightbridge (unmatched ignored)": ("weightbridge",),
    "lit-wsl": ("lit_wsl.mapper.weight_mapper",),
    "lit-wsl (Hungarian)": ("lit_wsl.mapper.weight_mapper",),
}
_BY_MODELS: dict[str, Callable[[Problem], Answer]] = {
    "lit-wsl": partial(_lit_wsl, strategy="greedy"),
    "lit-wsl (Hungarian)": partial(_lit_wsl, strategy="optimal"),
}

MAPPERS: dict[str, Mapper] = {
    OURS: Mapper(partial(_fxmap, verify=True)),
    "fxmap, no proof": Mapper(partial(_fxmap, verify=False)),
    "fxmap, names alone": Mapper(_fxmap_names, _fxmap_trees),
    **{
        name: Mapper(_BY_MODELS.get(name, partial(_by_trees, peer)), peer, _PACKAGES.get(name, ()))
        for name, peer in PEERS.items()
    },
    "iatransfer": Mapper(_iatransfer, needs=("iatransfer.toolkit",)),
    "torch.ao.ns graph matcher": Mapper(_graph_matcher, needs=("torch.ao.ns.fx.graph_matcher",)),
}


def preload() -> None:
    """Import all peers that are there, so that no process has to do it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mapper in MAPPERS.values():
            with contextlib.suppress(Exception):
                mapper.load()

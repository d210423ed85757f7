"""Patterns: one line for all keys that are made in the same way, and no line that says more than the mapping."""

import torch
from torch import nn

import fxmap
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Reshape, Slice
from fxmap.mapping.patterns import Pattern, patterns


def lines(expressions: dict[str, Expression]) -> list[str]:
    return [str(pattern) for pattern in patterns(expressions)]


def test_layers_of_layers_have_two_indices() -> None:
    made: dict[str, Expression] = {f"s.{i}.b.{j}.w": Source(f"{i}.{j}.w") for i in range(3) for j in range(4)}
    assert lines(made) == ["{i}.{j}.w -> s.{i}.b.{j}.w, i = 0..2; j = 0..3"]


def test_stages_of_other_lengths_are_other_patterns() -> None:
    made: dict[str, Expression] = {f"s.{i}.b.{j}.w": Source(f"{i}.{j}.w") for i in range(2) for j in range(3 + 2 * i)}
    assert lines(made) == ["0.{i}.w -> s.0.b.{i}.w, i = 0..2", "1.{i}.w -> s.1.b.{i}.w, i = 0..4"]


def test_parts_of_a_stack_are_formulas() -> None:
    made: dict[str, Expression] = {
        f"e.{i}.x.{j}.w": Reshape(Slice(Source(f"e.{i}.x"), j, j + 1), (4, 3)) for i in range(2) for j in range(8)
    }
    (pattern,) = patterns(made)
    assert str(pattern) == "reshape(e.{i}.x[{j}:{j+1}], [4, 3]) -> e.{i}.x.{j}.w, i = 0, 1; j = 0..7"
    assert pattern.expression is None


def test_joins_are_generalised_in_every_part() -> None:
    made: dict[str, Expression] = {f"h.{i}.qkv": Concat((Source(f"l.{i + 2}.q"), Source(f"l.{i + 2}.k"))) for i in range(3)}
    assert lines(made) == ["concat(l.{i+2}.q, l.{i+2}.k) -> h.{i}.qkv, i = 0..2"]


def test_two_layers_in_another_order_are_no_rule() -> None:
    made: dict[str, Expression] = {"b.0.w": Source("a.7.w"), "b.1.w": Source("a.3.w")}
    assert lines(made) == ["a.7.w -> b.0.w", "a.3.w -> b.1.w"]


def test_every_key_is_in_one_pattern_which_says_how_it_is_made() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU()) for _ in range(5)]
    src, dst = nn.Sequential(*layers), nn.Sequential(nn.Identity(), *layers[:2], nn.Identity(), *layers[2:])
    mapping = fxmap.auto_map(src, dst, verify=False)
    found = mapping.patterns()
    assert sorted(key for pattern in found for key in pattern.keys) == sorted(mapping)
    assert len(found) == 4
    assert {key: written_out(pattern, key) for pattern in found for key in pattern.keys} == {
        key: str(part) for key, part in mapping.items()
    }


def written_out(pattern: Pattern, key: str) -> str:
    names = {index.name for index in pattern.indices}
    values = {
        part[1:-1]: int(own)
        for part, own in zip(pattern.destination.split("."), key.split("."), strict=True)
        if part[1:-1] in names
    }
    text = pattern.source
    for formula in {part for part in text.replace("}", "{").split("{") if part[:1] in names}:
        text = text.replace(f"{{{formula}}}", str(eval(formula, {}, values)))
    return text

"""The vocabulary of names: recognise the role of a tensor by common words in its path, whatever model it is in.

Idea: names are made from a few dozen words that are used everywhere: `q`, `query` and `wq` have one role, `key` another. The
roles of one family exclude one another: a tensor called `query` is not one called `k_proj`, however alike their shapes and
places are. A path has at most one role of each family, by its deepest word. No name of a model is in the table, and a role
counts only where both sides use the family's words (`scores.spoken`).

>>> says(("layers", "0", "attention", "k_proj", "weight"))["attention"], says(("h", "0", "attn", "key", "bias"))["attention"]
('k', 'k')
>>> says(("blocks", "0", "norm1", "weight")), says(("layer", "0", "layernorm_after", "weight"))
({'norm': 'first'}, {'norm': 'second'})

Cost: a few look-ups a name.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

Path = tuple[str, ...]

_Words = frozenset[str]

# Families of roles that are named by single words of a path: for each role, its words.
_SINGLE: dict[str, dict[str, str]] = {
    "attention": {"q": "q query queries", "k": "k key keys", "v": "v value values", "kv": "kv", "qkv": "qkv"},
    "mlp": {"gate": "gate", "up": "up intermediate", "down": "down"},
    "statistics": {"mean": "mean", "var": "var variance"},
    "tower": {"image": "vision visual image", "text": "text language textual", "audio": "audio speech"},
    "coder": {"encoder": "encoder enc", "decoder": "decoder dec"},
    "side": {"left": "left", "right": "right", "forward": "forward", "backward": "backward"},
}
_SAYS = {
    family: {word: role for role, words in roles.items() for word in words.split()} for family, roles in _SINGLE.items()
}
_NUMBERED = {"w1": "gate", "w2": "down", "w3": "up"}
# The parts of a joined projection of attention, by how many there are.
_PARTS = {3: ("q", "k", "v"), 2: ("k", "v")}
_GATED = ("gate", "up")
_ATTENTION = frozenset(
    ["att", "attn", "attention", "selfattention", "crossattention", "sa", "mha", "msa", "xattn", "attnpool"]
)
_NORM = frozenset(["norm", "ln", "layernorm", "rmsnorm"])
# Names of a norm's own tensors.
_GAIN = frozenset(["scale", "gamma", "beta", "g"])
_FEED = frozenset(["mlp", "ffn", "ff", "feedforward", "feed", "fc"])
# Names of a projection without a name of its own; in attention it is the output projection.
_LAST = frozenset(["o", "out", "output", "proj", "projection", "dense", "to_out", "c"])


def told(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Return the roles of each path of one side, by family; words are interpreted beside the others of their block.

    A norm behind attention is the second of a block if there is one before attention, and the first if there is none.
    `w1`, `w3` and `w2` beside one another are the gate, the up projection and the down projection.

    >>> [word["norm"] for word in told([("0", "post_attention_norm", "weight"), ("0", "post_mlp_norm", "weight")])]
    ['first', 'second']
    """
    result = [says(path) for path in paths]
    norms: dict[Path, set[str]] = defaultdict(set)
    names: dict[Path, set[str]] = defaultdict(set)
    for path, words in zip(paths, result, strict=True):
        if "norm" in words:
            norms[path[:-2]].add(words["norm"])
        names[path[:-2]].add(path[-2] if len(path) > 1 else "")
    for path, words in zip(paths, result, strict=True):
        beside = norms[path[:-2]]
        if "norm" in words and "last" in beside and "first" not in beside:
            words["norm"] = {"second": "first", "last": "second"}[words["norm"]]
        if len(path) > 1 and path[-2] in _NUMBERED and names[path[:-2]] >= _NUMBERED.keys():
            words["mlp"] = _NUMBERED[path[-2]]
    return result


def says(path: Path) -> dict[str, str]:
    """Return the roles of a path, by family, from its own words alone."""
    modules = [tokens(part) for part in path[:-1] if not part.isdigit()]
    last = tokens(path[-1])
    if last and not last & {"weight", "bias"} and not (last <= _GAIN and modules and modules[-1] & _NORM):
        modules.append(last)
    result: dict[str, str] = {}
    for part in reversed(modules):
        for family, role in _words_of(part):
            result.setdefault(family, role)
    _add_attention(modules, result)
    _add_norm(modules, result)
    _add_embedding(modules, result)
    return result


def tokens(part: str) -> _Words:
    """Return the words of one name, without a leading `w` for weight.

    >>> sorted(tokens("selfAttn")), sorted(tokens("wq_a")), sorted(tokens("LayerNorm"))
    (['attn', 'self'], ['a', 'q'], ['layer', 'norm'])
    """
    spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", part).lower()
    found = re.findall(r"[a-z]+|\d+", spaced)
    return frozenset(word[1:] if word in ("wq", "wk", "wv", "wo", "wkv", "wqkv", "wgate") else word for word in found)


def _words_of(part: _Words) -> Iterator[tuple[str, str]]:
    """Yield (family, role) for the families of which a name has one role; with several, the tensor is a joined one."""
    for family, words in _SAYS.items():
        roles = {words[word] for word in part if word in words}
        if len(roles) == 1:
            yield family, roles.pop()


def _add_attention(modules: Sequence[_Words], result: dict[str, str]) -> None:
    at = next((n for n, part in enumerate(modules) if part & _ATTENTION), None)
    if at is None:
        # Outside of attention, `key` and `value` may be anything, unless q, k and v stand beside one another.
        return
    parts = modules[at:]
    if "attention" not in result and any(part <= _LAST for part in parts[1:]) and not any(part & _NORM for part in parts):
        result["attention"] = "out"
    crossed = any(part & {"cross", "crossattention"} or {"encoder", "attn"} <= part for part in parts)
    if crossed:
        result["attends"] = "other"
    elif any(part & {"self", "selfattention"} for part in parts):
        result["attends"] = "itself"


def _add_norm(modules: Sequence[_Words], result: dict[str, str]) -> None:
    """Add which norm of a block it is: the first, with attention, or the second, with the feed-forward network."""
    name = modules[-1] if modules else frozenset()
    if not name & _NORM or ("attention" in result and result["attention"] != "out"):
        return
    if name & {"post"} and name & _FEED:
        result["norm"] = "last"
    elif name & {"2", "after", "post"} or name & _FEED:
        result["norm"] = "second"
    elif name & {"1", "before", "input"} or (name & _ATTENTION and "encoder" not in name and "cross" not in name):
        result["norm"] = "first"
    elif len(modules) > 1 and "output" in modules[-2]:
        result["norm"] = "first" if any(part & _ATTENTION for part in modules) else "second"


def _add_embedding(modules: Sequence[_Words], result: dict[str, str]) -> None:
    words = frozenset[str]().union(*modules[-2:])
    name = frozenset[str]().union(*modules)
    if words & {"cls", "class"} and words & {"token", "embedding", "embed", "tokens"}:
        result["token"] = "class"
    elif words & {"dist", "distillation"} and words & {"token"}:
        result["token"] = "distillation"
    elif words & {"mask"} and words & {"token"}:
        result["token"] = "mask"
    elif words & {"reg", "register", "registers"} and words & {"token", "tokens"}:
        result["token"] = "register"
    elif words & {"wpe", "position", "positional", "positions", "pos"}:
        result["embedding"] = "position"
    elif words & {"type", "segment"} and words & {"embedding", "embeddings", "embed", "emb"}:
        result["embedding"] = "type"
    elif words & {"wte", "word", "tok"} or ("tokens" in words and "embed" in words):
        result["embedding"] = "word"
    elif words & {"lm"} and words & {"head"}:
        result["embedding"] = "head"
    elif words & {"patch"} and name & {"embed", "embedding", "embeddings"}:
        result["embedding"] = "patch"


def parts_named(name: str, number: int) -> tuple[str, ...] | None:
    """Return the parts of a joined projection: in the order of its name, or else in the usual order; None if unknown.

    Attention is joined in the order q, k, v where its name does not say another one, but there is no such order of gate and
    up projection.

    >>> parts_named("kqv", 3), parts_named("value_key", 2)
    (('k', 'q', 'v'), ('v', 'k'))
    >>> parts_named("Wqkv", 3), parts_named("c_attn", 3), parts_named("gate_up_proj", 2), parts_named("w12", 2)
    (('q', 'k', 'v'), ('q', 'k', 'v'), ('gate', 'up'), None)
    """
    words = [word.removeprefix("w") for word in re.findall(r"[a-z]+", name.lower())]
    if number == len(_GATED) and set(_GATED) <= set(words):
        return tuple(sorted(_GATED, key=words.index))
    if any(set(_GATED) & {word} for word in words):
        return None
    if number == 2 and not any(word.endswith("kv") for word in words) and not {"key", "value"} <= set(words):
        return None
    order = _letters(words)
    return order if len(order) == number else _PARTS.get(number)


def _letters(words: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of attention that words name, in order: `kqv`, `key_query_value`; none if one is named twice."""
    known = _SAYS["attention"]
    found: list[str] = []
    for word in words:
        joined = set(word) <= set("qkv") and len(set(word)) == len(word)
        found.extend(word if joined else [known[word]] if word in known else [])
    return tuple(found) if len(set(found)) == len(found) else ()


def order_named(name: str) -> tuple[str, ...]:
    """Return the order of q, k and v that the name of a joined projection says; nothing if it names fewer than three.

    >>> order_named("kqv"), order_named("query_key_value"), order_named("in_proj")
    (('k', 'q', 'v'), ('q', 'k', 'v'), ())
    """
    order = _letters([word.removeprefix("w") for word in re.findall(r"[a-z]+", name.lower())])
    return order if len(order) == len(_PARTS[3]) else ()


def is_gated(name: str) -> bool:
    """Whether a name says that a tensor holds the gate and up projections, and in which order.

    >>> is_gated("gate_up_proj"), is_gated("proj")
    (True, False)
    """
    return set(_GATED) <= {word.removeprefix("w") for word in re.findall(r"[a-z]+", name.lower())}


def says_rotary(name: str) -> bool:
    """Whether a name is that of rotary embeddings or of their frequencies.

    >>> says_rotary("attn.rotary_emb.inv_freq"), says_rotary("use_rope"), says_rotary("property")
    (True, True, False)
    """
    return re.search(r"rotary|inv_?freq|(?<![a-z])rope|freqs", name, re.IGNORECASE) is not None

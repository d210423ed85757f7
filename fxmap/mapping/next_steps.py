"""Next steps: what a person does after a mapping, as sentences with a line of Python in them."""

from collections.abc import Mapping

from fxmap.errors import shorten
from fxmap.expressions.base import Expression
from fxmap.mapping.findings import NAMES_ALONE, Findings
from fxmap.mapping.proof import Proof, Status


def next_steps(expressions: Mapping[str, Expression], findings: Findings, proof: Proof) -> tuple[str, ...]:
    """Return what to do next, the most important first; each is a sentence, and a line of Python behind a colon.

    >>> from fxmap.expressions.base import Source
    >>> found = Findings({"fc.weight": Status.PROVEN})
    >>> next_steps({"fc.weight": Source("fc.weight")}, found, Proof(ok=True, forwards=6))
    ('load a checkpoint of the source: fxmap.load(dst, "checkpoint.pth", src=src)',)
    """
    if findings.different:
        return ("give two models of one architecture: these are different networks",)
    if findings.blocked:
        return (f"build the destination in another way: {findings.blocked}",)
    if not expressions:
        return ("give both models, or a checkpoint of the network: no key could be mapped",)
    if proof.ok:
        return (*_ranges(findings), 'load a checkpoint of the source: fxmap.load(dst, "checkpoint.pth", src=src)')
    steps = []
    if proof.divergence is not None:
        remedy = proof.divergence.remedy or "see which of the two is meant"
        steps.append(f"compare {proof.divergence.dst} with {proof.divergence.src} in the code: {remedy}")
    if findings.mismatched:
        keys = shorten([mismatch.key for mismatch in findings.mismatched])
        steps.append(f'let the destination keep what was replaced ({keys}): fxmap.load(..., on_mismatch="keep")')
    missing = findings.keys_with(Status.MISSING)
    if missing:
        steps.append(
            f"say how {shorten(missing)} is made: mapping = fxmap.KeyMapping(dict(mapping) | "
            f'{{"{missing[0]}": "a key of the source"}})'
        )
    if NAMES_ALONE in findings.rungs or findings.keys_with(Status.GUESSED):
        steps.append("have the keys matched by structure, and proven: fxmap.load(dst, file, src=model_of_the_file)")
    if not proof.asked:
        steps.append("prove it: fxmap.verify(src, dst, mapping)")
    elif not proof.forwards:
        steps.append("give inputs that both models accept: fxmap.auto_map(src, dst, example_inputs=(x,))")
    return (*_ranges(findings), *steps)


def _ranges(findings: Findings) -> tuple[str, ...]:
    if not findings.ranges or not any(findings.statuses.get(key) is Status.KEPT for key in findings.ranges):
        return ()
    return ("give typical inputs for the ranges of activations: fxmap.transfer(src, dst, calibration=batches)",)

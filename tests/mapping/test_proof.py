"""Proof and Divergence as a person reads them."""

import pytest

from fxmap.mapping.proof import Divergence, Proof, Status


@pytest.mark.parametrize(
    ("error", "size"),
    [(float("inf"), ""), (0.0, " (equal on these inputs)"), (0.25, " (relative error 2.5e-01)")],
)
def test_a_divergence_says_where_and_how_far(error: float, size: str) -> None:
    found = Divergence("a (add)", "b (sub)", error, "eps 1 against 2", "set eps to 1")
    assert str(found) == f"first divergence: b (sub) against a (add): eps 1 against 2{size}. set eps to 1"


def test_a_proof_prints_its_verdict_its_run_and_what_is_to_be_known() -> None:
    proof = Proof(True, {"a": Status.PROVEN}, 1e-12, None, 3, ("1x3",), notes=("4 alternatives",), sqnr=41.26)
    assert str(proof).splitlines() == [
        "proof: ok; run in float64 on 1x3, 3 forward passes, relative error 1.0e-12",
        "4 alternatives",
        "as int8, 41.3 dB signal to noise against the float source",
    ]
    assert proof.status("a") is Status.PROVEN
    assert str(Proof(reason="no graph")) == "proof: nothing could be run: no graph"

"""What is written and what is not: the proof, the file, the source model and the destination are four things."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap


def weight(model: nn.Module, path: str) -> torch.Tensor:
    value: torch.Tensor = model.state_dict()[f"{path}.weight"]
    return value


def net(act: nn.Module | None = None, classes: int = 3, eps: float = 1e-5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, eps=eps), act or nn.GELU(), nn.Linear(8, classes))


class Two(nn.Module):
    """Two layers of one shape, and what is made of their outputs."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4), nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.a(x), self.b(x))


def one_way(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT).softmax(-1) @ b


def other_way(a: Tensor, b: Tensor) -> Tensor:
    return (b @ a.mT).softmax(-1) @ b


def unchanged(model: nn.Module, call: Callable[[], Any], error: type[Exception], match: str) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error, match=match):
        call()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_what_a_run_refutes_is_not_written() -> None:
    src, dst = Two(one_way), Two(other_way)
    assert fxmap.auto_map(src, dst).proof.refuted
    unchanged(
        dst, lambda: fxmap.transfer(src, dst), fxmap.ProofError, r"outputs differ.*Nothing was written.*verify=\"warn\""
    )
    unchanged(dst, lambda: fxmap.load(dst, src.state_dict(), src=src), fxmap.ProofError, "Nothing was written")


def test_a_refuted_mapping_is_written_at_the_user_s_word() -> None:
    src, dst = Two(one_way), Two(other_way)
    with pytest.warns(fxmap.ProofWarning, match="refuted"):
        mapping = fxmap.transfer(src, dst, verify="warn")
    assert not mapping.ok
    assert repr(mapping).startswith("<KeyMapping of 4 keys, refuted")
    assert str(mapping).startswith("refuted; 4 of 4")
    assert not fxmap.transfer(src, dst, verify=False).proof.asked


@pytest.mark.parametrize(
    ("src", "dst", "words"),
    [
        (net(nn.GELU()), net(nn.ReLU()), "relu against gelu"),
        (net(nn.ReLU6()), net(nn.ReLU()), "relu against hardtanh"),
        (net(eps=1e-3), net(), "eps"),
        (net(), nn.Sequential(*net(), nn.Softmax(-1)), "softmax without a counterpart"),
    ],
)
def test_a_difference_that_is_named_is_written_with_a_warning(src: nn.Module, dst: nn.Module, words: str) -> None:
    with pytest.warns(fxmap.ProofWarning, match=words):
        mapping = fxmap.transfer(src, dst)
    assert not mapping.ok
    assert not mapping.proof.refuted
    assert torch.equal(dst.state_dict()["3.weight"], src.state_dict()["3.weight"])


class Encoder(nn.Module):
    """Tokens, of which `pool` makes what is returned; and a head behind that, where it is wide."""

    def __init__(self, pool: Callable[[Tensor], Any], classes: int = 0) -> None:
        super().__init__()
        self.a, self.norm, self.pool = nn.Linear(8, 8), nn.LayerNorm(8), pool
        self.head = nn.Linear(8, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.pool(self.norm(x + torch.tanh(self.a(x)))))


def _first(h: Tensor) -> Tensor:
    return h[:, 0]


def _mean(h: Tensor) -> Tensor:
    return h.mean(1)


def _both(h: Tensor) -> tuple[Tensor, Tensor]:
    return h, h[:, 0]


@pytest.mark.parametrize(("one", "other", "classes"), [(_first, _mean, 0), (_mean, _both, 0), (_mean, _first, 3)])
def test_a_mean_in_the_place_of_a_token_is_named_and_written_with_a_warning(
    one: Callable[[Tensor], Any], other: Callable[[Tensor], Any], classes: int
) -> None:
    src, dst = Encoder(one, classes), Encoder(other, classes)
    with pytest.warns(fxmap.ProofWarning, match="mean without a counterpart"):
        mapping = fxmap.transfer(src, dst, example_inputs=torch.randn(2, 5, 8))
    assert not mapping.proof.refuted
    assert torch.equal(dst.a.weight, src.a.weight)
    wrong = dict(mapping) | {"norm.weight": "norm.bias", "norm.bias": "norm.weight"}
    assert fxmap.verify(src, dst, wrong, example_inputs=torch.randn(2, 5, 8)).refuted


def test_a_replaced_head_is_no_refutation() -> None:
    src, dst = net(), net(classes=5)
    with pytest.warns(fxmap.ProofWarning, match=r"3\.weight, 3\.bias: of another shape"):
        mapping = fxmap.transfer(src, dst, on_mismatch="keep")
    assert mapping.mismatched == ["3.weight", "3.bias"]


def test_a_named_difference_does_not_hide_a_wrong_key_behind_it() -> None:
    class Behind(nn.Module):
        def __init__(self, eps: float, function: Callable[[Tensor, Tensor], Tensor]) -> None:
            super().__init__()
            self.norm, self.two = nn.LayerNorm(4, eps=eps), Two(function)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.two(self.norm(x))
            return y

    src, dst = Behind(1e-3, one_way), Behind(1e-6, other_way)
    unchanged(dst, lambda: fxmap.transfer(src, dst), fxmap.ProofError, "Nothing was written")


def test_required_is_required_of_the_file_as_well() -> None:
    src, dst = net(), net()
    state = src.state_dict() | {"probe.weight": torch.randn(2, 3)}
    unchanged(dst, lambda: fxmap.load(dst, state, src=net(), verify="required"), fxmap.ProofError, r"probe\.weight")


def test_a_proof_that_nobody_asked_for_says_so() -> None:
    mapping = fxmap.KeyMapping({"a": "b"})
    assert not mapping.proof.ok
    assert not mapping.ok
    assert "not asked for" in str(mapping)
    assert repr(mapping) == "<KeyMapping of 1 keys, no proof asked for; 0 missing, 0 mismatched>"
    assert "verify=False" in str(fxmap.auto_map(net(), net(), verify=False).proof)


def test_a_bias_that_the_source_model_lacks_is_not_left_silently() -> None:
    def build(bias: bool) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8, bias=bias), nn.ReLU(), nn.Linear(8, 3))

    file, dst = build(True).state_dict(), build(False)
    words = r"0\.bias: a tensor of 0, of which 0\.weight is read.*strict=False"
    unchanged(dst, lambda: fxmap.load(dst, file, src=build(False)), fxmap.LoadError, words)
    unchanged(dst, lambda: fxmap.load(dst, file), fxmap.LoadError, words)
    with pytest.warns(fxmap.ProofWarning, match=r"0\.bias"):
        mapping = fxmap.load(dst, file, src=build(False), strict=False)
    assert list(mapping.left_in_file) == ["0.bias"]
    assert not mapping.ok


def test_a_bias_of_zero_and_a_counter_are_inert() -> None:
    dst = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8))
    file = dst.state_dict() | {"0.bias": torch.zeros(8), "0.num_batches_tracked": torch.tensor(3)}
    mapping = fxmap.load(dst, file, src=nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8)))
    assert mapping.ok
    assert mapping.left_in_file["0.bias"] == "a bias of 0"


def test_a_part_of_its_own_is_left_with_a_warning() -> None:
    dst, file = net(), net().state_dict() | {"adapter.weight": torch.randn(8, 8)}
    with pytest.warns(fxmap.ProofWarning, match=r"adapter\.weight"):
        mapping = fxmap.load(dst, file, src=net())
    assert mapping.left_in_file == {"adapter.weight": "a part of its own"}
    assert not mapping.ok


@pytest.mark.parametrize(
    "companions",
    [{"weight_scale_inv": (1, 1)}, {"lora_A.weight": (2, 4), "lora_B.weight": (4, 2)}, {"weight_mask": (4, 4)}],
)
def test_a_weight_with_companions_is_not_taken_for_the_weight(companions: dict[str, tuple[int, int]]) -> None:
    dst = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    file = nn.Sequential(nn.Linear(4, 4)).state_dict()
    file |= {f"0.{name}": torch.randn(shape) for name, shape in companions.items()}
    unchanged(dst, lambda: fxmap.load(dst, file), fxmap.LoadError, f"0.{next(iter(companions))}")


def test_keys_that_the_file_lacks_are_named() -> None:
    src, dst = net(), net()
    file = {key: value for key, value in net().state_dict().items() if not key.startswith("3.")}
    words = r"3\.weight, 3\.bias: src \(Sequential\) reads 2 keys that the source lacks"
    unchanged(dst, lambda: fxmap.load(dst, file, src=src), fxmap.LoadError, words)
    before = weight(dst, "3").clone()
    with pytest.warns(fxmap.ProofWarning, match="lacks"):
        mapping = fxmap.load(dst, file, src=src, on_mismatch="keep")
    assert mapping.missing == ["3.weight", "3.bias"]
    assert torch.equal(weight(dst, "3"), before)


def test_another_model_than_the_file_s_is_refused() -> None:
    dst = net()
    words = "0 of the 6 keys of src"
    unchanged(dst, lambda: fxmap.load(dst, nn.LSTM(3, 3).state_dict(), src=net()), fxmap.LoadError, words)


class Normalised(nn.Module):
    def __init__(self, mean: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((8,), mean))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x - self.mean)
        return y


def test_values_of_the_source_model_s_own_are_compared_with_the_file_s() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x)
            return y

    dst = Plain()
    words = "mean: src has another value of it.*Load the file into src first"
    unchanged(dst, lambda: fxmap.load(dst, Normalised(0.5).state_dict(), src=Normalised()), fxmap.LoadError, words)
    assert fxmap.load(dst, Normalised().state_dict(), src=Normalised()).ok


def test_the_shapes_of_the_file_win() -> None:
    file, dst = net(classes=7), net(classes=7)
    mapping = fxmap.load(dst, file.state_dict(), src=net(classes=100))
    assert mapping.ok
    assert torch.equal(weight(dst, "3"), weight(file, "3"))
    assert "src has other sizes than the file" in str(mapping)
    dst = net(classes=7)
    assert fxmap.load(dst, file.state_dict(), src=net(classes=100), on_mismatch="keep").ok
    assert torch.equal(weight(dst, "3"), weight(file, "3"))


def test_a_tied_key_that_a_file_leaves_out_is_no_loss() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            y: Tensor = self.head(self.embed(ids))
            return y

    src, dst = Tied(), Tied()
    mapping = fxmap.load(dst, {"head.weight": src.head.weight.detach()}, src=Tied())
    assert mapping.ok
    assert torch.equal(dst.embed.weight, src.embed.weight)


def test_a_part_of_the_destination_is_filled() -> None:
    src = net()
    dst = nn.ModuleDict({"backbone": net(), "head": nn.Linear(3, 2)})
    head = weight(dst, "head").clone()
    mapping = fxmap.transfer(src, dst, into="backbone")
    assert mapping.ok
    assert mapping.renames["backbone.0.weight"] == "0.weight"
    assert mapping.status("head.weight") is fxmap.Status.KEPT
    assert torch.equal(weight(dst, "backbone.0"), weight(src, "0"))
    assert torch.equal(weight(dst, "head"), head)
    assert fxmap.load(dst, src.state_dict(), src=net(), into="backbone").ok
    with pytest.raises(fxmap.LoadError, match=r"into='bakbone'.*the closest are backbone"):
        fxmap.transfer(src, dst, into="bakbone")


def test_load_and_transfer_take_all_arguments_of_auto_map() -> None:
    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def features(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x)
            return y

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.features(x) + mask

    x = torch.randn(2, 4)
    src, dst = nn.Linear(4, 4), Flagged()
    arguments: dict[str, Any] = {
        "example_inputs": x,
        "dst_inputs": (x,),
        "src_forward": lambda model, x: model(x),
        "dst_forward": lambda model, x: model.features(x),
        "absorb_eps": True,
    }
    assert fxmap.transfer(src, dst, **arguments).ok
    assert fxmap.load(dst, src.state_dict(), src=nn.Linear(4, 4), **arguments).ok


def test_inputs_that_do_not_fit_are_named_with_the_line_that_refused_them() -> None:
    class Folds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:  # no symbolic trace
                x = -x
            y: Tensor = self.fc(x.view(-1, 5))
            return y

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = fxmap.auto_map(Folds(), Folds(), example_inputs={"x": torch.ones(2, 4)})
    text = str(mapping)
    assert "Folds does not run on x=2x4" in text
    assert "self.fc(x.view(-1, 5))" in text
    assert "pass example_inputs" not in text


def test_an_unknown_word_for_verify_is_refused() -> None:
    with pytest.raises(ValueError, match="verify is"):
        fxmap.transfer(net(), net(), verify="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        ({"0.qweight": (2, 4), "0.qzeros": (1, 1), "0.scales": (1, 4)}, "GPTQ or AWQ"),
        ({"0.weight": (8, 1), "0.weight.absmax": (1, 2), "0.weight.quant_map": (16, 1)}, "bitsandbytes in 4 bits"),
        ({"0.weight": (4, 4), "0.SCB": (4, 1)}, "bitsandbytes in 8 bits"),
        ({"0.weight_v": (4, 4), "0.weight_g": (3, 1)}, "weight norm"),
        ({"0.parametrizations.weight.original": (4, 4), "0.parametrizations.weight.0.base": (4, 4)}, "not known here"),
        ({"base.0.lora_A.weight": (2, 4), "base.0.lora_B.weight": (4, 2)}, r"an adapter \(LoRA\) alone"),
    ],
)
@pytest.mark.parametrize("on_mismatch", ["raise", "keep"])
def test_packed_weights_are_refused_by_their_name(packed: dict[str, tuple[int, int]], words: str, on_mismatch: Any) -> None:
    dst = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 3))
    rest = {} if "alone" in words else {"1.weight": torch.randn(3, 4), "1.bias": torch.randn(3)}
    file = rest | {key: torch.randn(shape) for key, shape in packed.items()}
    unchanged(dst, lambda: fxmap.load(dst, file, on_mismatch=on_mismatch), fxmap.LoadError, words)

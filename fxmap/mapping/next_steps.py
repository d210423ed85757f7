"""Next steps: what a person does after a mapping, as sentences with a line of Python or a command that can be pasted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from fxmap.errors import shorten
from fxmap.expressions.base import Expression
from fxmap.mapping.findings import NAMES_ALONE, Findings
from fxmap.mapping.proof import Proof, Status


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do: in words, as a line of Python, and as a command with SRC and DST in it; either may be empty."""

    text: str
    python: str = ""
    command: str = ""

    def on_command_line(self, src: str, dst: str) -> str:
        """Return the step for somebody who typed `fxmap map src dst`.

        >>> Step("load it", "fxmap.load(dst)", "fxmap convert FILE --dst DST").on_command_line("a.pth", "timm:resnet18")
        'load it: fxmap convert FILE --dst timm:resnet18'
        >>> Step("look", "", "fxmap map SRC DST").on_command_line("net.py:build()", "timm:resnet18")
        "look: fxmap map 'net.py:build()' timm:resnet18"
        """
        words = {"SRC": quote(src), "DST": quote(dst)}
        command = " ".join(words.get(word, word) for word in self.command.split(" "))
        return f"{self.text}: {command}" if command else self.text

    def __str__(self) -> str:
        return f"{self.text}: {self.python}" if self.python else self.text


def next_steps(
    expressions: Mapping[str, Expression], findings: Findings, proof: Proof, loaded: bool = False
) -> tuple[Step, ...]:
    """Return what to do next, the most important first; `loaded` says that the mapping has filled its destination.

    >>> from fxmap.expressions.base import Source
    >>> found = Findings({"fc.weight": Status.PROVEN})
    >>> print(*next_steps({"fc.weight": Source("fc.weight")}, found, Proof(ok=True, forwards=6)))
    load a checkpoint of the source: fxmap.load(dst, "checkpoint.pth", src=src)
    """
    if findings.different:
        return (Step("give two models of one architecture: these are different networks"),)
    if findings.blocked:
        return (Step(f"build the destination in another way: {findings.blocked}"),)
    if not expressions:
        return (Step("give both models, or a checkpoint of the network: no key could be mapped"),)
    # What was loaded has its ranges, or the user's word that they are right.
    ranges = () if loaded else _ranges(findings)
    if proof.ok:
        return ranges or (() if loaded else (_load(*findings.carried),))
    return (*ranges, *_difference(proof), *([] if loaded else _open(findings)), *_unproven(findings, proof))


def _load(src: str, dst: str) -> Step:
    """Return how weights are loaded: its own of a source that carries its graph, else those of a checkpoint.

    >>> for carried in (("", ""), ("'a.onnx'", ""), ("'a.ts'", ""), ("", "'b.onnx'")):
    ...     print(_load(*carried))
    load a checkpoint of the source: fxmap.load(dst, "checkpoint.pth", src=src)
    load it: fxmap.load(dst, 'a.onnx')
    load it: fxmap.load(dst, 'a.ts', allow_code=True)
    write the file of the destination anew: fxmap.convert("checkpoint.pth", "new.onnx", dst='b.onnx', src=src)
    """
    file, model = (src, "") if src else ('"checkpoint.pth"', ", src=src")
    command = "fxmap convert SRC --dst DST" if src else "fxmap convert CHECKPOINT --src SRC --dst DST"
    if is_path(dst):
        new = f"new{Path(dst.strip(_QUOTES)).suffix}"
        python = f'fxmap.convert({file}, "{new}", dst={dst}{model})'
        return Step("write the file of the destination anew", python, f"{command} -o {new}")
    code = is_path(src) and not src.strip(_QUOTES).endswith(WITHOUT_CODE)
    python = f"fxmap.load(dst, {file}{', allow_code=True' * code}{model})"
    words = "load it" if src else "load a checkpoint of the source"
    return Step(words, python, f"{command}{' --allow-code' * code} -o new.safetensors")


# Files that carry their graph as data.
WITHOUT_CODE = (".onnx", ".pt2")

_QUOTES = "'\""


def is_path(text: str) -> bool:
    """Whether what stands for something in Python is the path of a file.

    >>> is_path("'a.onnx'"), is_path("src")
    (True, False)
    """
    return text[:1] in tuple(_QUOTES)


def _ranges(findings: Findings) -> tuple[Step, ...]:
    if not any(findings.statuses.get(key) is Status.KEPT for key in findings.ranges):
        return ()
    text = "give typical inputs, for the ranges of activations"
    command = "fxmap convert CHECKPOINT --src SRC --dst DST --calibration inputs.pt -o new.safetensors"
    return (Step(text, "fxmap.transfer(src, dst, calibration=batches)", command),)


def _difference(proof: Proof) -> tuple[Step, ...]:
    if proof.divergence is None:
        return ()
    remedy = proof.divergence.remedy or "say which of the two is meant, and build the other one so"
    where = f"compare {proof.divergence.dst} with {proof.divergence.src} in the code"
    return (Step(f"{where}. {remedy[:1].upper()}{remedy[1:]}"),)


def _open(findings: Findings) -> list[Step]:
    steps = []
    if findings.mismatched:
        text = f"let the destination keep what was replaced ({shorten([one.key for one in findings.mismatched])})"
        command = "fxmap convert CHECKPOINT --src SRC --dst DST --keep -o new.safetensors"
        steps.append(Step(text, 'fxmap.load(dst, file, src=src, on_mismatch="keep")', command))
    missing = findings.keys_with(Status.MISSING)
    if missing:
        python = f'mapping = fxmap.KeyMapping(dict(mapping) | {{"{missing[0]}": "a key of the source"}})'
        steps.append(Step(f"say of what {shorten(missing)} is made", python))
    return steps


def _unproven(findings: Findings, proof: Proof) -> tuple[Step, ...]:
    if NAMES_ALONE in findings.rungs or findings.keys_with(Status.GUESSED):
        text = "have the keys matched by structure, and proven, with the model that the file was made with"
        command = "fxmap convert CHECKPOINT --src MODEL --dst DST -o new.safetensors"
        return (Step(text, "fxmap.load(dst, file, src=model_of_the_file)", command),)
    if not proof.asked:
        return (Step("prove it", "fxmap.verify(src, dst, mapping)", "fxmap verify SRC DST mapping.json"),)
    if not proof.forwards:
        text, python = "give inputs that both models accept", "fxmap.auto_map(src, dst, example_inputs=(x,))"
        return (Step(text, python, "fxmap map SRC DST --inputs 1x3x224x224"),)
    return ()

"""The arguments and options that commands share, with their help."""

from pathlib import Path
from typing import Annotated

import typer

MODELS = (
    "a model, as in torchvision:resnet18(num_classes=5), timm:NAME(arguments), transformers:FOLDER, hf:ORG/NAME, "
    "file.py:factory(arguments), package.module:factory(arguments)"
)


CODE = "Arguments are literals; a factory runs its package's code, or its file's."


Src = Annotated[
    str, typer.Argument(metavar="SRC", help=f"The source: {MODELS}, or a file: a checkpoint, .onnx, .pt2. {CODE}")
]


Dst = Annotated[str, typer.Argument(metavar="DST", help="The destination, in the same words.")]


AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let torch's interpreter run the code of a TorchScript SRC.")]


AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]


Weights = Annotated[str | None, typer.Option(metavar="NAME", help="Which weights of several in a checkpoint, such as ema.")]


Inputs = Annotated[
    str | None, typer.Option(metavar="SHAPE", help="Shape of an input, as in 1x3x224x224, where it cannot be inferred.")
]


DstOption = Annotated[str, typer.Option(metavar="MODEL", help=f"The destination: {MODELS}. {CODE}")]


Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE|FOLDER",
        help="The file to write: .safetensors, .pt, .pth, or as DST (.onnx, .pt2); other: a folder.",
    ),
]


SrcOption = Annotated[
    str | None, typer.Option(metavar="MODEL", help="The model of the checkpoint; without it, keys are guessed.")
]


Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|distilled|keep",
        help="Ranges of an int8 destination: from typical inputs, a file of torch.save with a list of batches; from "
        "images that are made out of the statistics of the source's batch norms; or its own.",
    ),
]


Into = Annotated[str | None, typer.Option(metavar="PART", help="The part of DST that is meant, as in backbone.body.")]


Dtype = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of floating-point tensors in an output folder: bfloat16, ...")
]


ShardSize = Annotated[str, typer.Option(metavar="SIZE", help="Of a file in an output folder, as 500MB.")]


Strict = Annotated[
    bool, typer.Option(help="Refuse a file that holds more of the layers that are read than is read of them.")
]


AbsorbEps = Annotated[
    bool,
    typer.Option(
        "--absorb-eps", help="Move another eps of a batch norm into the running variance, where nothing else differs."
    ),
]

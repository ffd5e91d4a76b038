"""The options that verbs share, so that one name means one thing everywhere.

A verb uses them as annotations: `def evaluate(model: ModelArgument, data: DataOption = None, …)`. A parameter
without a default is required. `-v` and `-q` are added to every verb by `ranksmith.cli.app`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranksmith.errors import UsageError

__all__ = [
    "BatchOption",
    "BatchesOption",
    "CalibrationOption",
    "DataOption",
    "DevkitOption",
    "ImagesOption",
    "JsonOption",
    "LabelsOption",
    "ModelArgument",
    "NodesOption",
    "OutputOption",
    "OverwriteOption",
    "PreprocessOption",
    "ProviderOption",
    "SeedOption",
    "ThreadsOption",
    "parse_batches",
]

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A path, a bundle, a model zoo name, or the word demo.", show_default=False),
]

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Images: a directory (a folder per class, or flat), ILSVRC2012_img_val.tar, or an .npz.",
        show_default=False,
    ),
]

CalibrationOption = Annotated[int, typer.Option("--calibration", metavar="N", min=1, help="Images to calibrate on.")]

LabelsOption = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="Class names, line i for class i.", show_default=False),
]

DevkitOption = Annotated[
    Path | None,
    typer.Option(
        "--devkit", metavar="FILE", help="ILSVRC2012_devkit_t12.tar.gz, the labels of the tar.", show_default=False
    ),
]

PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="imagenet|cifar10|FILE.toml",
        help="How images become inputs; by default what the bundle or the zoo says, or a guess with a warning.",
        show_default=False,
    ),
]

ImagesOption = Annotated[
    int | None,
    typer.Option("--images", metavar="N", min=1, help="Use at most N images.", show_default=False),
]

NodesOption = Annotated[
    list[str] | None,
    typer.Option("--node", metavar="NODE", help="A Conv by its name; may be repeated.", show_default=False),
]

OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="PATH", help="Where the result goes.", show_default=False)
]

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

ProviderOption = Annotated[
    str,
    typer.Option(
        "--provider", metavar="NAME", help="What runs the model: cpu, cuda, tensorrt, openvino or openvino-bf16."
    ),
]

ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="Threads inside one inference; by default all cores.", show_default=False
    ),
]

BatchOption = Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Images in one inference.")]

BatchesOption = Annotated[str, typer.Option("--batch", metavar="N[,N…]", help="Batch sizes, comma-separated.")]

SeedOption = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of everything random.")]


def parse_batches(text: str) -> list[int]:
    """`"1,8"` as `[1, 8]`, without repeats.

    Raises:
        UsageError: an entry that is not a positive whole number.
    """
    batches: list[int] = []
    for entry in text.split(","):
        if not entry.strip().isdecimal() or int(entry) < 1:
            raise UsageError(f"--batch {text!r}: {entry.strip()!r} is not a batch size", hint="for example --batch 1,8")
        if int(entry) not in batches:
            batches.append(int(entry))
    return batches

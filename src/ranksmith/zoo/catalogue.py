"""The Model Zoo's classifiers that ranksmith knows, each by the SHA-256 of the file that was looked at."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ranksmith.errors import UsageError

__all__ = ["ZOO", "ZooEntry", "find", "get"]


@dataclass(frozen=True)
class ZooEntry:
    """One file of the zoo.

    Attributes:
        name: the file's name.
        family: the directory it is in.
        sha256: of its content.
        bytes: its size.
        preprocess: the preset that it was trained with.
    """

    name: str
    family: str
    sha256: str
    bytes: int
    preprocess: str = "imagenet"

    @property
    def path(self) -> str:
        """Its place in the zoo."""
        return f"validated/vision/classification/{self.family}/model/{self.name}"


ZOO = (
    ZooEntry(
        name="resnet50-v1-12.onnx",
        family="resnet",
        sha256="3f03fdef724b22947eed826f1eef1dc5c34151bb4c37d634f1db89dfa2dd1526",
        bytes=102576593,
    ),
    ZooEntry(
        name="resnet50-v1-12-int8.onnx",
        family="resnet",
        sha256="c234f30975989788b4405f25253275aae247ab6dbdd34aaa69ab0a59ff76f6d0",
        bytes=25816052,
    ),
    ZooEntry(
        name="resnet18-v1-7.onnx",
        family="resnet",
        sha256="4e8f8653e7a2222b3904cc3fe8e304cd8b339ce1d05fd24688162f86fb6df52c",
        bytes=46820737,
    ),
    ZooEntry(
        name="resnet34-v1-7.onnx",
        family="resnet",
        sha256="883a41b2e30ddc2e422c108b091b5e70b92d37dc5c345a2c563dcae27971e2cc",
        bytes=87302588,
    ),
    ZooEntry(
        name="mobilenetv2-12.onnx",
        family="mobilenet",
        sha256="c0c3f76d93fa3fd6580652a45618618a220fced18babf65774ed169de0432ad5",
        bytes=13964571,
    ),
    ZooEntry(
        name="squeezenet1.1-7.onnx",
        family="squeezenet",
        sha256="1eeff551a67ae8d565ca33b572fc4b66e3ef357b0eb2863bb9ff47a918cc4088",
        bytes=4956208,
    ),
    ZooEntry(
        name="vgg16-12.onnx",
        family="vgg",
        sha256="722c42f53ca03a5480296bf8f9c85a151de3eed9ec982d7d2302ff6e2900c67b",
        bytes=553437752,
    ),
    ZooEntry(
        name="densenet-12.onnx",
        family="densenet-121",
        sha256="0294e7e88e5b3360de9b0fdc321baf9e6ef18b7f058c4536caae3b9f18ed9ed5",
        bytes=32726877,
    ),
)


def find(name: str) -> ZooEntry | None:
    """The entry of this name, with or without `.onnx`, in any case; None where there is none."""
    wanted = name.lower().removesuffix(".onnx")
    return next((entry for entry in ZOO if entry.name.removesuffix(".onnx") == wanted), None)


def get(name: str) -> ZooEntry:
    """The entry of this name.

    Raises:
        UsageError: there is none; the hint lists the nearest names.
    """
    entry = find(name)
    if entry is None:
        known = [entry.name.removesuffix(".onnx") for entry in ZOO]
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise UsageError(f"no zoo entry named {name!r}", hint=f"nearest: {', '.join(nearest)}")
    return entry

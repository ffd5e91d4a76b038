"""ImageNet's validation set read from `ILSVRC2012_img_val.tar` in place, labelled by the devkit.

The tar holds `ILSVRC2012_val_00000001.JPEG` … `…_00050000.JPEG`, uncompressed. Its members are listed
once; an image is then one positioned read, from any thread, without unpacking anything.

The devkit, `ILSVRC2012_devkit_t12.tar.gz`, gives line i of its ground truth for the image numbered i, as
an ILSVRC2012_ID from 1 to 1000. That ID is *not* the class index of the usual networks: `meta.mat` maps
it to a WordNet id, and the class index is the position of that id among the 1,000 leaf synsets (those
without children) in sorted order, or in the order of a labels file.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.dataset import content_key
from ranksmith.data.images import SUFFIXES, decode
from ranksmith.data.labels import LabelLines
from ranksmith.errors import DataError

__all__ = ["TarDataset", "open_tar", "read_devkit"]

META = "ILSVRC2012_devkit_t12/data/meta.mat"
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"

# What loadmat raises for a file that is none, and what a table without the fields raises.
_MAT_ERRORS = (AttributeError, EOFError, LookupError, NotImplementedError, OSError, TypeError, ValueError, zlib.error)

_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG$")


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Devkit:
    """What the devkit says: the synset of each image (image number 1 is entry 0), and all leaf synsets."""

    wnids: list[str]
    leaves: list[str]
    words: dict[str, str]


class TarDataset:
    """Images inside an uncompressed tar."""

    def __init__(
        self, path: Path, members: list[_Member], labels: NDArray[np.int64] | None, class_names: list[str] | None
    ) -> None:
        self.name = path.name
        self.path = path
        self.members = members
        self.labels = labels
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int) -> NDArray[np.uint8]:
        return decode(self._content(index), f"{self.path}:{self.members[index].name}")

    def key(self, index: int) -> str:
        return content_key(self._content(index), None if self.labels is None else int(self.labels[index]))

    def _content(self, index: int) -> bytes:
        member = self.members[index]
        try:
            # A handle per read: threads share no position, and nothing is left to close.
            with self.path.open("rb", buffering=0) as stream:
                stream.seek(member.offset)
                content = stream.read(member.size)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error
        if len(content) != member.size:
            raise DataError(f"{self.path}:{member.name}: the tar ends inside this image")
        return content


def open_tar(path: Path, *, devkit: Path | None = None, lines: LabelLines | None = None) -> TarDataset:
    """Open a tar of images, labelled when the devkit is given.

    Raises:
        DataError: not a tar, no images in it, or the devkit does not fit it.
    """
    members = _list_images(path)
    if not members:
        raise DataError(f"{path}: no images in this tar")
    if devkit is None:
        return TarDataset(path, members, None, None if lines is None else lines.lines)
    kit = read_devkit(devkit)
    if lines is None:
        classes = {wnid: index for index, wnid in enumerate(kit.leaves)}
        names = [f"{wnid} {kit.words[wnid]}" for wnid in kit.leaves]
    else:
        classes = {wnid: _line_of(wnid, lines, devkit) for wnid in set(kit.wnids)}
        names = lines.lines
    labels = [classes[_wnid_of(member, kit, path, devkit)] for member in members]
    return TarDataset(path, members, np.asarray(labels, np.int64), names)


def read_devkit(path: Path) -> Devkit:
    """Read the ground truth and the synsets out of the devkit's archive.

    Raises:
        DataError: it is not the devkit, or it contradicts itself.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            meta = _extract(archive, META, path)
            truth = _extract(archive, GROUND_TRUTH, path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as the devkit: {error}") from error
    synsets = _synsets(meta, path)
    by_id = {identifier: wnid for identifier, wnid, _, _ in synsets}
    try:
        wnids = [by_id[int(line)] for line in truth.decode("ascii").split()]
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: {GROUND_TRUTH} has an entry that meta.mat does not know: {error}") from error
    leaves = sorted(wnid for _, wnid, _, children in synsets if children == 0)
    return Devkit(wnids, leaves, {wnid: words for _, wnid, words, _ in synsets})


def _list_images(path: Path) -> list[_Member]:
    try:
        with tarfile.open(path, "r:") as archive:
            members = [
                _Member(member.name, member.offset_data, member.size)
                for member in archive
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES
            ]
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{path}: cannot be read as an uncompressed tar: {error}") from error
    return sorted(members, key=lambda member: member.name)


def _extract(archive: tarfile.TarFile, name: str, path: Path) -> bytes:
    try:
        stream = archive.extractfile(name)
    except KeyError:
        stream = None
    if stream is None:
        raise DataError(f"{path}: no {name} in it", hint="give ILSVRC2012_devkit_t12.tar.gz as it was downloaded")
    return stream.read()


def _synsets(meta: bytes, path: Path) -> list[tuple[int, str, str, int]]:
    """(ILSVRC2012_ID, WNID, words, num_children) of every synset in `meta.mat`."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        stream: Any = io.BytesIO(meta)
        table: Any = loadmat(stream, squeeze_me=True, struct_as_record=False)["synsets"]
        rows = [
            (int(row.ILSVRC2012_ID), str(row.WNID), str(row.words), int(row.num_children))
            for row in np.atleast_1d(table)
        ]
    except (MatReadError, *_MAT_ERRORS) as error:
        raise DataError(f"{path}: {META} is not the synset table expected: {error}") from error
    return rows


def _line_of(wnid: str, lines: LabelLines, devkit: Path) -> int:
    index = lines.find(wnid)
    if index is None:
        raise DataError(
            f"{lines.path}: no line starts with {wnid}, a synset of {devkit}",
            hint="the labels file must start each line with the synset's WordNet id",
        )
    return index


def _wnid_of(member: _Member, kit: Devkit, path: Path, devkit: Path) -> str:
    match = _NUMBERED.search(member.name)
    if match is None:
        raise DataError(f"{path}: {member.name} is not a name of the validation set (ILSVRC2012_val_########.JPEG)")
    number = int(match[1])
    if not 1 <= number <= len(kit.wnids):
        raise DataError(f"{path}: {member.name} has no ground truth: {devkit} ends at image {len(kit.wnids)}")
    return kit.wnids[number - 1]

"""The swap of a model as a transaction: check, load, prove, flip, drain. Any failure leaves the old one serving.

1. the bundle: manifest, sha256 and size of every file       here
2. the new generation: checked, loaded, warmed at every batch size       its workers
3. the golden inputs                                          its workers
4. inputs and outputs compatible with what is served          here
5. new requests go to the new generation                      the front ends
6. the old one ends when it holds no request and the time to roll back is over
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from ranksmith.bundle.verify import verify_files
from ranksmith.errors import BundleError, ModelError, UsageError
from ranksmith.results import Manifest
from ranksmith.serve.messages import Deploy, Hello, Receipt, TensorInfo, WorkerSpec
from ranksmith.serve.supervisor.generation import Generation

__all__ = ["Swappable", "bundle_spec", "deploy", "rollback"]

Start = Callable[[WorkerSpec, str], Awaitable[Generation]]


@dataclass(eq=False)
class Swappable:
    """A model and its generations.

    Attributes:
        target: what the command line named.
        active: the generation that gets new requests.
        previous: what was active before, warm as long as it is in `warm`.
        warm: by number, every generation whose workers run.
        highest: the largest number given so far.
    """

    name: str
    target: str
    active: Generation
    highest: int
    previous: tuple[WorkerSpec, str] | None = None
    warm: dict[int, Generation] = field(default_factory=dict)

    def flip(self, to: Generation) -> None:
        """Send new requests to another generation."""
        self.previous = (self.active.spec, self.active.source)
        self.active = to
        self.warm[to.number] = to
        self.highest = max(self.highest, to.number)


def bundle_spec(bundle: Path, like: WorkerSpec, generation: int) -> WorkerSpec:
    """What a worker needs to serve a bundle, with the threads and limits of what it replaces.

    Raises:
        BundleError: it is incomplete, or not what its manifest says.
    """
    manifest: Manifest = verify_files(bundle)
    return msgspec.structs.replace(
        like,
        model=str(bundle / manifest.model.name),
        generation=generation,
        preprocess=manifest.preprocess,
        labels=manifest.labels,
        golden=str(bundle / "golden.npz"),
        is_checked=True,
    )


async def deploy(model: Swappable, asked: Deploy, start: Start) -> Receipt:
    """Replace what is served by a bundle.

    Raises:
        RanksmithError: why it was refused; what was served still is.
    """
    began = time.monotonic()
    bundle = Path(asked.bundle)
    if not bundle.is_dir():
        raise BundleError(f"{bundle}: no such bundle")
    old = model.active
    # Hashing takes a while, in which the supervisor has others to watch.
    spec = await asyncio.to_thread(bundle_spec, bundle, old.spec, model.highest + 1)
    checks = ["every file has the size and SHA-256 of the manifest"]
    # A number is never given twice, or an answer could name a generation that it is not from.
    model.highest = spec.generation
    loading = time.monotonic()
    new = await start(spec, str(bundle))
    load_s = time.monotonic() - loading
    checks += ["the model is valid and has no custom operators", "the golden outputs are what they were"]
    try:
        _check_compatible(old.hello, new.hello, force=asked.force)
    except ModelError:
        await new.end()
        raise
    checks.append("inputs and outputs are those of the generation before" if not asked.force else "forced")
    model.flip(new)
    return _receipt("deploy", model, old, checks, load_s, began)


async def rollback(model: Swappable, start: Start) -> Receipt:
    """Go back to what was active before; at once where its workers still run.

    Raises:
        RanksmithError: there is nothing to go back to, or it cannot be loaded any more.
    """
    began = time.monotonic()
    if model.previous is None:
        raise UsageError(f"{model.name}: there is no generation to go back to")
    spec, source = model.previous
    old = model.active
    new = model.warm.get(spec.generation)
    checks = ["its workers were still warm"]
    if new is None or not new.is_ready:
        new = await start(spec, source)
        checks = ["loaded again"]
    load_s = time.monotonic() - began
    model.flip(new)
    return _receipt("rollback", model, old, checks, load_s, began)


def _receipt(
    verb: Literal["deploy", "rollback"],
    model: Swappable,
    old: Generation,
    checks: list[str],
    load_s: float,
    began: float,
) -> Receipt:
    return Receipt(
        verb=verb,
        model=model.name,
        source=model.active.source,
        old_generation=old.number,
        new_generation=model.active.number,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        checks=checks,
        load_s=round(load_s, 3),
        total_s=round(time.monotonic() - began, 3),
    )


def _check_compatible(old: Hello | None, new: Hello | None, *, force: bool) -> None:
    """
    Raises:
        ModelError: a client of the old one would not know what to do with the new one.
    """
    if old is None or new is None or force:
        return
    for what, before, after in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        if before != after:
            raise ModelError(
                f"its {what}s are {_shown(after)}, and clients expect {_shown(before)}",
                hint="deploy with --force if the clients know",
            )
    if old.takes_images and not new.takes_images:
        raise ModelError("it takes no images, and what is served does", hint="deploy with --force if the clients know")


def _shown(infos: list[TensorInfo]) -> str:
    return ", ".join(f"{info.name} {info.datatype} {info.shape}" for info in infos)

"""`ranksmith compare`: how far two models' outputs differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ranksmith.cli.options import (
    BatchOption,
    DataOption,
    DevkitOption,
    ImagesOption,
    JsonOption,
    LabelsOption,
    PreprocessOption,
    ProviderOption,
    SeedOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from ranksmith.data.loader import Batch
    from ranksmith.progress import Progress
    from ranksmith.results import Comparison
    from ranksmith.runtime.session import Feeds, Session

__all__ = ["compare"]

_RANDOM_INPUTS = 32


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The model to compare with.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The model to compare.", show_default=False)],
    data: DataOption = None,
    labels: LabelsOption = None,
    devkit: DevkitOption = None,
    preprocess: PreprocessOption = None,
    images: ImagesOption = None,
    batch: BatchOption = 8,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare the outputs of B with those of A: differences, agreement of the top-1 class, divergence (KL).

    Without --data the inputs are random (the demo brings its own images), which shows whether two models compute
    the same, not how well they agree on what they will see.
    """
    from ranksmith.cli.output import make_progress, print_json
    from ranksmith.data.loader import load
    from ranksmith.data.split import sample
    from ranksmith.measure.compare import compare as measure
    from ranksmith.runtime.session import fixed_batch, open_session
    from ranksmith.workflow.inputs import open_inputs
    from ranksmith.workflow.source import resolve

    progress = make_progress()
    sources = [resolve(text, progress=progress) for text in (a, b)]
    sessions = [open_session(source.path, provider=provider, threads=threads) for source in sources]
    batch = fixed_batch(sessions[0]) or fixed_batch(sessions[1]) or batch
    feeds: Iterator[Feeds]
    if data is None and sources[0].data is None:
        progress.note("no --data: comparing on random inputs")
        described, feeds = "random inputs", _random(sessions[0], images or _RANDOM_INPUTS, batch, seed)
    else:
        inputs = open_inputs(
            sources[0], data=data, labels=labels, devkit=devkit, preprocess=preprocess, progress=progress
        )
        chosen = sample(len(inputs.dataset), images, seed)
        batches = load(inputs.dataset, chosen, inputs.preprocess, batch=batch, warn=progress.warn)
        described, feeds = inputs.dataset.name, _from_images(sessions[0], batches, len(chosen), progress)
    result = measure(sessions[0], sessions[1], feeds, names=(sources[0].name, sources[1].name), data=described)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _random(session: Session, images: int, batch: int, seed: int) -> Iterator[Feeds]:
    from ranksmith.measure.latency import random_feeds

    for offset in range(0, images, batch):
        yield random_feeds(session, batch, seed + offset)


def _from_images(session: Session, batches: Iterator[Batch], total: int, progress: Progress) -> Iterator[Feeds]:
    from ranksmith.measure.accuracy import single_input

    name = single_input(session)
    with progress.stage("comparing", total) as advance:
        for batch in batches:
            yield {name: batch.images}
            advance(len(batch))


def _show(result: Comparison) -> None:
    from ranksmith.cli.output import show, table

    columns = ("output", "max abs", "mean abs", "max relative", "relative L2")
    rows = [
        (
            found.output,
            *(f"{value:.3g}" for value in (found.max_abs, found.mean_abs, found.max_relative, found.relative_l2)),
        )
        for found in result.outputs
    ]
    show(
        table(columns, rows, title=f"{result.b} against {result.a}, {result.images} x {result.data}", right=columns[1:])
    )
    if result.agreement is not None and result.kl is not None:
        show(f"top-1 agreement {100 * result.agreement:.2f} %, KL {result.kl:.3g} nats")

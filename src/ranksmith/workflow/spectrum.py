"""Cumulative energy against rank, of each Conv's feature map over the data and of its weight."""

from __future__ import annotations

from collections.abc import Sequence

from ranksmith.data.dataset import Dataset
from ranksmith.data.split import sample
from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph.query import conv_infos, conv_layer
from ranksmith.lowrank.spectra import retained_energy, weight_energy
from ranksmith.progress import Progress
from ranksmith.results import Preprocess, Spectrum, SpectrumReport
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.inputs import image_batch
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import gather

__all__ = ["run"]

# Reasons of `inspect` for which there is no 2-D Conv with a constant weight to analyse.
_NO_SPECTRUM = {"kept-not-2d", "kept-dynamic-weight"}


def run(
    source: ModelSource,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    nodes: Sequence[str] | None,
    limit: int | None,
    threads: int,
    progress: Progress,
    seed: int = 0,
    batch: int = 8,
) -> SpectrumReport:
    """Spectra of `nodes` (None: of every 2-D Conv) of the folded model.

    Args:
        limit: use so many of the images (None: all), drawn by `seed`.

    Raises:
        NodeNotFoundError: a node that is not a Conv of the model.
        ModelError: the model has no Conv to analyse.
    """
    model, _ = load_folded(source)
    infos = {info.node: info for info in conv_infos(model)}
    for node in nodes or ():
        if node not in infos:
            raise NodeNotFoundError(node, infos, what="Conv")
    chosen = list(nodes) if nodes else [name for name, info in infos.items() if info.reason not in _NO_SPECTRUM]
    if not chosen:
        raise ModelError(f"{source.path} has no 2-D Conv with a constant weight")
    statistics = gather(
        model,
        {node: ["output"] for node in chosen},
        dataset=dataset,
        indices=sample(len(dataset), limit, seed),
        preprocess=preprocess,
        threads=threads,
        batch=image_batch(model, source.path, wanted=batch),
        progress=progress,
    )
    spectra = [
        Spectrum(
            node=node,
            output=retained_energy(statistics.output[node].covariance).tolist(),
            weight=weight_energy(conv_layer(model, node)).tolist(),
        )
        for node in chosen
    ]
    return SpectrumReport(model=source.name, data=dataset.name, images=statistics.images, spectra=spectra)

"""The statistics of a run: gathered in passes that fit in memory, kept in the cache, read back layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ranksmith.lowrank.fisher import GradientStatistics
from ranksmith.lowrank.statistics import InputStatistics
from ranksmith.runtime.session import default_threads
from ranksmith.workflow.cache import calibrated_key
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.fisher import gather_fisher
from ranksmith.workflow.statistics import Need, Statistics, gather, needs_of, passes

__all__ = ["gather_statistics", "statistics_key"]


def statistics_key(job: Job, prepared: Prepared, what: str, **more: object) -> str:
    """A cache key of what was gathered of the calibration images of this model."""
    return calibrated_key(what, prepared.source_sha256, prepared.calibration_sha256, job.preprocess, **more)


def gather_statistics(job: Job, prepared: Prepared) -> Statistics:
    """Output covariances and metrics of every candidate, and access to the statistics of their inputs."""
    statistics = _stored_outputs(job, prepared)
    needing = {node: layer for node, layer in prepared.layers.items() if "input" in needs_of(layer, job.options.kinds)}
    for nodes in passes(needing):
        missing = [node for node in nodes if not job.cache.has_arrays(_input_key(job, prepared, node))]
        if missing:
            # Outputs take little beside inputs, and come along in the first pass.
            gathered = _gather(job, prepared, missing, outputs=statistics is None)
            statistics = statistics or gathered
    if statistics is None:
        statistics = _gather(job, prepared, [], outputs=True)
    statistics.stored = partial(_read_input, job, prepared)
    if job.options.weighted:
        statistics.fisher |= _fisher(job, prepared)
    return statistics


def _outputs_key(job: Job, prepared: Prepared) -> str:
    return statistics_key(job, prepared, "statistics", nodes=prepared.candidates)


def _stored_outputs(job: Job, prepared: Prepared) -> Statistics | None:
    cached = job.cache.arrays(_outputs_key(job, prepared))
    if cached is None:
        return None
    statistics = Statistics.from_arrays(prepared.layers, cached)
    prepared.calibration.recall_skipped(statistics.skipped, job.progress.warn)
    return statistics


def _gather(job: Job, prepared: Prepared, nodes: Sequence[str], *, outputs: bool) -> Statistics:
    """What one pass over the calibration images shows of the inputs of `nodes`, and of every candidate's output.

    Everything is stored; what is returned holds no inputs.
    """
    images = prepared.calibration
    needs: dict[str, list[Need]] = {node: ["output"] for node in prepared.candidates} if outputs else {}
    for node in nodes:
        needs.setdefault(node, []).append("input")
    titles = ["spectra"] * outputs + [f"input statistics of {len(nodes)} layers"] * bool(nodes)
    statistics = gather(
        prepared.folded,
        needs,
        dataset=images.dataset,
        indices=images.indices,
        preprocess=job.preprocess,
        threads=default_threads(),
        batch=images.batch,
        progress=job.progress,
        skipped=images.skipped,
        title=" and ".join(titles).capitalize(),
        thin=True,
    )
    for node in nodes:
        job.cache.put_arrays(_input_key(job, prepared, node), statistics.input.pop(node).to_arrays())
    if outputs:
        job.cache.put_arrays(_outputs_key(job, prepared), statistics.to_arrays())
    return statistics


def _input_key(job: Job, prepared: Prepared, node: str) -> str:
    return statistics_key(job, prepared, "input", node=node)


def _read_input(job: Job, prepared: Prepared, node: str) -> InputStatistics:
    arrays = job.cache.arrays(_input_key(job, prepared, node))
    if arrays is None:
        # Somebody emptied the cache while we worked.
        _gather(job, prepared, [node], outputs=False)
        arrays = job.cache.arrays(_input_key(job, prepared, node)) or {}
    return InputStatistics.from_arrays(prepared.layers[node], arrays)


def _fisher(job: Job, prepared: Prepared) -> dict[str, GradientStatistics]:
    """What the answer says about each candidate's output, where the model's operators can be differentiated."""
    images, seed = prepared.calibration, job.options.seed
    key = statistics_key(job, prepared, "fisher", nodes=prepared.candidates, seed=seed)
    cached = job.cache.arrays(key)
    if cached is None:
        found = gather_fisher(
            prepared.folded,
            prepared.candidates,
            dataset=images.dataset,
            indices=images.indices,
            preprocess=job.preprocess,
            threads=default_threads(),
            batch=images.batch,
            progress=job.progress,
            skipped=images.skipped,
            seed=seed,
        )
        cached = {
            f"{node}|{name}": array for node, fisher in found.items() for name, array in fisher.to_arrays().items()
        }
        job.cache.put_arrays(key, cached)
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for key, array in cached.items():
        node, _, name = key.rpartition("|")
        parts.setdefault(node, {})[name] = array
    known = {node: GradientStatistics.from_arrays(own) for node, own in parts.items()}
    if len(known) < len(prepared.candidates):
        job.progress.note(
            f"{len(prepared.candidates) - len(known)} layers cannot be differentiated to the answer: "
            "their factors are fitted to the layer's own output"
        )
    return known

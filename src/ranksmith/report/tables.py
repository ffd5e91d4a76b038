"""The numbers behind the figures as CSV: one header line, full precision to six digits, None as an empty cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from msgspec import structs

from ranksmith.report.families import family
from ranksmith.results import Manifest, OptionRecord, PredictionAudit, Spectrum, SpectrumReport, SweepPoint, SweepReport

__all__ = ["spectrum_table", "sweep_table", "tables"]

_LAYER_FIELDS = (
    "node",
    "reason",
    "kind",
    "rank",
    "full_rank",
    "break_even_rank",
    "precision",
    "macs_before",
    "macs_after",
    "retained_energy",
    "baseline_ms",
    "predicted_ms",
    "measured_ms",
    "sensitivity",
    "damage",
    "weighted",
    "detail",
)
_OPTION_FIELDS = OptionRecord.__struct_fields__
_PROVIDER_FIELDS = ("provider", "precision", "baseline_ms", "result_ms", "ratio", "note")
_FRONTIER_FIELDS = (
    "name",
    "family",
    "plan",
    "macs",
    "params",
    "speedup",
    "predicted_ms",
    "measured_ms",
    "selection_drop_pp",
    "selection_agreement",
    "selection_kl",
    "probability",
    "chosen",
)


def tables(manifest: Manifest) -> dict[str, str]:
    """CSV texts by file name."""
    frontier = [
        [*_cells(structs.replace(point, family=family(point)), _FRONTIER_FIELDS), *(point.speedup_ci95 or (None, None))]
        for point in manifest.frontier
    ]
    latency = [
        (pair.batch, index, original, result, original / result)
        for pair in manifest.latency
        for index, (original, result) in enumerate(zip(pair.baseline_ms, pair.result_ms, strict=True))
    ]
    return {
        "layers.csv": _csv(_LAYER_FIELDS, (_cells(layer, _LAYER_FIELDS) for layer in manifest.layers)),
        "options.csv": _csv(
            ("node", *_OPTION_FIELDS),
            ((layer.node, *_cells(option, _OPTION_FIELDS)) for layer in manifest.layers for option in layer.options),
        ),
        "frontier.csv": _csv((*_FRONTIER_FIELDS, "speedup_low", "speedup_high"), frontier),
        "latency.csv": _csv(("batch", "pair", "original_ms", "result_ms", "ratio"), latency),
        "prediction.csv": _csv(("predicted_ms", "measured_ms"), _predictions(manifest.prediction)),
        "providers.csv": _csv(
            (*_PROVIDER_FIELDS, "ratio_low", "ratio_high"),
            ((*_cells(entry, _PROVIDER_FIELDS), *entry.ci95) for entry in manifest.providers),
        ),
        "spectra.csv": _spectra(manifest.spectra, manifest.rank_errors),
        "stages.csv": _csv(("stage", "seconds"), manifest.stages_s.items()),
    }


def spectrum_table(report: SpectrumReport) -> str:
    """node, rank, and the energy that the rank retains of the feature map and of the weight."""
    return _spectra(report.spectra, None)


def sweep_table(report: SweepReport) -> str:
    """A line a rank, a column an error."""
    fields = SweepPoint.__struct_fields__
    return _csv(fields, (_cells(point, fields) for point in report.points))


def _predictions(prediction: PredictionAudit | None) -> Iterable[Sequence[object]]:
    return zip(prediction.predicted_ms, prediction.measured_ms, strict=True) if prediction else ()


def _spectra(spectra: Sequence[Spectrum], errors: dict[str, list[float]] | None) -> str:
    def lines() -> Iterable[Sequence[object]]:
        for spectrum in spectra:
            # The weight's matrix may have fewer rows or columns than the output has channels.
            for rank in range(1, max(len(spectrum.output), len(spectrum.weight)) + 1):
                line = [spectrum.node, rank, _at(spectrum.output, rank), _at(spectrum.weight, rank)]
                yield line if errors is None else [*line, _at(errors.get(spectrum.node, []), rank)]

    header = ("node", "rank", "output_energy", "weight_energy")
    return _csv(header if errors is None else (*header, "layer_relative_l2"), lines())


def _cells(record: object, fields: Sequence[str]) -> list[object]:
    return [getattr(record, field) for field in fields]


def _at(values: Sequence[float], rank: int) -> float | None:
    return values[rank - 1] if rank <= len(values) else None


def _csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in line] for line in lines)
    return stream.getvalue()

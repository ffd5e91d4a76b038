"""One layer's story as plain text: what was considered, what was decided and why, and whether it came true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ranksmith.errors import NodeNotFoundError
from ranksmith.report import text
from ranksmith.report.decisions import changed, is_reference, rank_words, verdict_words
from ranksmith.results import LayerRecord, Manifest, OptionRecord

__all__ = ["explain", "layer_named"]

_INDENT = 14
"""Columns of the labels."""
_MEANINGS = {
    "chosen": "what the model has",
    "pays": "faster than the layer as it is, but not what the whole model gains most by",
    "slower": "not faster than the layer as it is, measured in context",
    "dominated": "another option is no slower and does less damage",
}


def layer_named(manifest: Manifest, node: str) -> LayerRecord:
    """The record of the Conv `node`.

    Raises:
        NodeNotFoundError: the model has no such Conv; the hint lists the nearest names.
    """
    for layer in manifest.layers:
        if layer.node == node:
            return layer
    raise NodeNotFoundError(node, [layer.node for layer in manifest.layers], what="Conv")


def explain(manifest: Manifest, node: str) -> str:
    """The story of the Conv `node`, lines of at most some hundred columns, without markup.

    Raises:
        NodeNotFoundError: the model has no such Conv; the hint lists the nearest names.
    """
    layer = layer_named(manifest, node)
    lines = [text.printable(layer.node), ""]
    lines += [f"{label:<{_INDENT}}{words}" for label, words in _facts(manifest, layer)]
    lines += ["", *_considered(layer)]
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _facts(manifest: Manifest, layer: LayerRecord) -> Iterator[tuple[str, str]]:
    yield "decision", _decision(layer)
    yield "why", text.printable(layer.detail)
    position = [record.node for record in manifest.layers].index(layer.node) + 1
    yield "where", f"Conv {position} of {len(manifest.layers)}{_share(manifest, layer)}"
    if layer.baseline_ms is not None or layer.measured_ms is not None:
        yield "time", _time(layer)
    if layer.macs_before is not None:
        after = layer.macs_after
        shrunk = after is not None and after != layer.macs_before
        now = f", {text.count(after)} now" if shrunk else ""
        yield (
            "multiply-adds",
            f"{text.count(layer.macs_before)}{now}; an output-side pair is cheaper below rank {layer.break_even_rank}",
        )
    if layer.retained_energy is not None:
        yield "energy kept", f"{text.percent(layer.retained_energy, 2)} of the output's, over the calibration images"
    if layer.sensitivity is not None:
        yield "sensitivity", f"{text.nats(layer.sensitivity)} nats for each unit of squared relative error, measured"
    if layer.damage is not None:
        share = _damage_share(manifest, layer)
        yield "damage", f"{text.millinats(layer.damage)} (thousandths of a nat) at the model's output, estimated{share}"
    if layer.weighted:
        yield "factors", "fitted to the model's output rather than to the layer's alone"


def _decision(layer: LayerRecord) -> str:
    words = text.printable(layer.reason)
    if layer.rank is not None:
        words += f": {layer.kind}, rank {rank_words(layer)}"
    return f"{words}, {layer.precision}" if changed(layer) else words


def _share(manifest: Manifest, layer: LayerRecord) -> str:
    known = [record.baseline_ms for record in manifest.layers if record.baseline_ms is not None]
    if layer.baseline_ms is None or not sum(known):
        return ""
    return f", {text.percent(layer.baseline_ms / sum(known))} of their time in the original"


def _damage_share(manifest: Manifest, layer: LayerRecord) -> str:
    total = sum(record.damage or 0.0 for record in manifest.layers)
    return f", {text.percent((layer.damage or 0.0) / total)} of all layers'" if total > 0 else ""


def _time(layer: LayerRecord) -> str:
    words = []
    if layer.baseline_ms is not None:
        words.append(f"{text.milliseconds(layer.baseline_ms)} before")
    if changed(layer) and layer.predicted_ms is not None:
        words.append(f"{text.milliseconds(layer.predicted_ms)} predicted")
    if layer.measured_ms is not None:
        words.append(f"{text.milliseconds(layer.measured_ms)} measured")
    off = ""
    if changed(layer) and layer.predicted_ms and layer.measured_ms is not None:
        error = layer.measured_ms / layer.predicted_ms - 1
        off = f" ({text.percent(abs(error), 0)} {'more' if error >= 0 else 'less'} than predicted)"
    return ", ".join(words) + off


def _considered(layer: LayerRecord) -> list[str]:
    if not layer.options:
        return ["Nothing else was considered for it."]
    keep = next((option for option in layer.options if is_reference(option)), None)
    dense_ms = keep.predicted_ms if keep is not None else layer.baseline_ms
    options = sorted(layer.options, key=_order)
    header = ("", "kind", "rank", "precision", "predicted", "speedup", "error", "damage", "verdict")
    rows = [header, *(_row(option, dense_ms) for option in options)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    table = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    verdicts = [verdict for verdict in _MEANINGS if any(verdict_words(option) == verdict for option in options)]
    meanings = [f"{verdict:<{_INDENT}}{_MEANINGS[verdict]}" for verdict in verdicts]
    return [f"Considered, fastest first ({len(options)}):", "", *table, "", *meanings]


def _order(option: OptionRecord) -> tuple[bool, float, float, str, int]:
    """What was not timed comes last."""
    timed = option.predicted_ms is not None
    return not timed, option.predicted_ms or 0.0, option.error, option.kind or "", option.rank or 0


def _row(option: OptionRecord, dense_ms: float | None) -> tuple[str, ...]:
    speedup = text.DASH
    if dense_ms is not None and option.predicted_ms:
        speedup = text.ratio(dense_ms / option.predicted_ms)
    return (
        "*" if option.verdict == "chosen" else "",
        text.printable(option.kind or "as it is"),
        str(option.rank) if option.rank is not None else text.DASH,
        option.precision,
        text.milliseconds(option.predicted_ms),
        speedup,
        text.percent(option.error),
        text.millinats(option.damage),
        text.printable(verdict_words(option)),
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    return [
        cell.ljust(width) if column in (0, 1, 3, 8) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]

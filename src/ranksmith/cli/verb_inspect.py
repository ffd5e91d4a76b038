"""`ranksmith inspect`: what is in a model, and which Convs are worth decomposing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ranksmith.cli.options import JsonOption, ModelArgument

if TYPE_CHECKING:
    from ranksmith.results import ConvInfo, Inspection, ValueInfo

__all__ = ["inspect"]


def inspect(model: ModelArgument, as_json: JsonOption = False) -> None:
    """Show inputs, outputs, cost, and every Conv: shape, MACs, break-even rank, candidate or why not."""
    from ranksmith.cli.output import make_progress, print_json
    from ranksmith.graph import io, query
    from ranksmith.graph.external import external_files
    from ranksmith.graph.normalize import normalize
    from ranksmith.workflow.source import resolve

    source = resolve(model, progress=make_progress())
    graph = io.load(source.path)
    size_bytes = sum(file.stat().st_size for file in (source.path, *external_files(graph)))
    normalize(graph)
    result = query.inspect(graph, source.name, size_bytes)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: Inspection) -> None:
    from ranksmith.cli.output import human_bytes, show, table

    operators = ", ".join(f"{count} {name}" for name, count in result.operators.items())
    facts = [
        ("model", f"{result.model}, {human_bytes(result.bytes)}, opset {result.opset}"),
        *(("input", _value(value)) for value in result.inputs),
        *(("output", _value(value)) for value in result.outputs),
        ("nodes", f"{result.nodes}: {operators}"),
        ("cost", f"{_millions(result.macs)} M multiply-adds an image, {_millions(result.params)} M parameters"),
    ]
    for label, text in facts:
        show(f"{label:<7} {text}")
    if not result.convs:
        show("There is no Conv in this model, so there is nothing to decompose.")
        return
    columns = ("node", "weight", "stride", "group", "input", "M MACs", "k params", "full rank", "break-even", "verdict")
    right = ("M MACs", "k params", "full rank", "break-even", "group")
    show(table(columns, [_row(conv) for conv in result.convs], right=right))
    candidates = sum(conv.candidate for conv in result.convs)
    show(f"{candidates} of {len(result.convs)} Convs are candidates for decomposition")


def _row(conv: ConvInfo) -> tuple[object, ...]:
    return (
        conv.node,
        "×".join(map(str, conv.weight_shape)) or "?",
        "×".join(map(str, conv.strides)),
        conv.group,
        "×".join(map(str, (conv.input_shape or ["?"])[1:])) or "?",
        _millions(conv.macs),
        f"{conv.params / 1e3:.1f}",
        conv.full_rank,
        conv.break_even_rank,
        conv.reason,
    )


def _value(value: ValueInfo) -> str:
    shape = "of unknown shape" if value.shape is None else f"[{', '.join(map(str, value.shape))}]"
    return f"{value.name} {value.dtype} {shape}"


def _millions(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e6:.2f}"

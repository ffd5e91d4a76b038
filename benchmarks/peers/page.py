"""The frontier benchmark's Markdown page and its figure, from the results as JSON has them."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranksmith.report.drawing import ACCENT, GREY, INK, MUTED, WARM, axes, canvas, drawn

__all__ = ["figure", "markdown"]

# What answers fewer images as the original does is of no use, and would squeeze the rest.
_LOWEST_AGREEMENT = 75.0

# Colour, line and marker; solid lines for aligned ranks, dotted for ranks as they come.
_LOOKS = {
    "ranksmith-fp32": (ACCENT, "-", "o"),
    "ranksmith-int8": (ACCENT, "--", "D"),
    "int8": (INK, "", "X"),
    "energy-pca": (MUTED, "-", "s"),
    "energy-pca-unaligned": (MUTED, ":", "s"),
    "uniform-svd": (GREY, "-", "v"),
    "uniform-svd-unaligned": (GREY, ":", "v"),
    "aimet-spatial-svd": (WARM, "-", "^"),
    "aimet-spatial-svd-unaligned": (WARM, ":", "^"),
}


def markdown(result: dict[str, Any], name: str) -> str:
    """The page; the figure lies beside it as NAME.svg."""
    where, images = result["machine"], result["images"]
    conditions = result["conditions"]
    lines = [
        f"# Frontier: {result['model']}",
        "",
        "By `benchmarks/frontier.py`:",
        "",
        f"    {result['command']}",
        "",
        f"Machine: {where['cpu']}, {where['cores']} cores, {where['os']}, Python {where['python']},",
        (
            f"onnxruntime {where['libraries'].get('onnxruntime')}, CPU provider, no spinning; ranksmith "
            f"{result['ranksmith']}. Ranks of whole blocks: {result['block']} channels."
        ),
        "",
        (
            f"All methods may see the same {images['calibration']} calibration images and are judged on the same "
            f"{images['judged']} others, which none of them saw; seed {result['seed']}. All models are timed in "
            f"onnxruntime side by side with the folded original, {result['pairs']} interleaved rounds; speed-ups are "
            "medians of paired ratios to it, intervals 95 % bootstrap: over rounds for times, over images for answers. "
            "Agreement is the share of images with the original's answer; KL is from the original's softmax, in nats. "
            "Where no image changes, resampling knows no spread: an agreement of 100 % has the rule of three's low "
            "end, a drop of 0.00 no width."
        ),
        "",
        f"![frontier]({name}.svg)",
        "",
        "## At equal milliseconds",
        "",
    ]
    for entry in result["equal_time"]:
        lines += _equal_time(entry)
    lines += ["## All models", ""]
    head = " | ".join(conditions)
    lines += [
        f"| method | model | MACs ÷ | {head} | top-1 lost, pp | agreement | KL |",
        f"|---|---|---|{'---|' * len(conditions)}---|---|---|",
    ]
    for method in result["methods"]:
        for point in method["points"]:
            speedups = " | ".join(_speedup(point["speedup"][condition]) for condition in conditions)
            fewer = "" if point["macs"] is None else f"{result['macs'] / point['macs']:.2f}"
            lines.append(f"| {method['title']} | {point['label']} | {fewer} | {speedups} | {_judged(point)} |")
    lines += ["", "## What was done", ""]
    lines += [f"- **{method['title']}**: {method['about']}." for method in result["methods"]]
    lines += [f"- {note}" for note in result["notes"]]
    if result["anchor"]:
        lines += ["", result["anchor"]]
    return "\n".join(lines) + "\n"


def _equal_time(entry: dict[str, Any]) -> list[str]:
    lines = [
        f"**{entry['target']:.3g}x, {entry['condition']}**" + (f"; ours: {entry['ours']}" if entry["ours"] else ""),
        "",
        "| method | how | top-1 lost, pp | agreement | KL | agreement of ours less this, pp | agreement | KL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in entry["rows"]:
        if row["how"] == "not reached":
            lines.append(f"| {row['title']} | not reached, at most {row['fastest']:.2f}x | | | | | | |")
            continue
        parts = " + ".join(f"{part['weight']:.2f} × {part['label']}" for part in row["parts"])
        how = f"{row['how']} ({parts})"
        if row["how"] != "interpolated":
            how = f"{row['how']} at {row['speedup']:.2f}x ({row['parts'][0]['label']})"
        versus = " | | "
        if row["versus"] is not None:
            found = row["versus"]
            low, high = found["agreement_ci95_pp"]
            more = f"{found['agreement_pp']:+.1f} ({low:+.1f} to {high:+.1f})"
            versus = f"{more} | {found['agreement']} | {found['kl']}"
        lines.append(f"| {row['title']} | {how} | {_judged(row)} | {versus} |")
    return [*lines, ""]


def _judged(point: dict[str, Any]) -> str:
    drop, agreement, kl = point["drop_pp"], point["agreement"], point["kl"]
    return " | ".join(
        (
            f"{drop['mean']:.2f} ({drop['ci95'][0]:.2f} to {drop['ci95'][1]:.2f})",
            f"{agreement['mean']:.1%} ({agreement['ci95'][0]:.1%} to {agreement['ci95'][1]:.1%})",
            f"{kl['mean']:.4f} ({kl['ci95'][0]:.4f} to {kl['ci95'][1]:.4f})",
        )
    )


def _speedup(entry: dict[str, Any]) -> str:
    return f"{entry['ratio']:.3f}x ({entry['ci95'][0]:.3f} to {entry['ci95'][1]:.3f}), {entry['ms']:.2f} ms"


@drawn
def figure(result: dict[str, Any]) -> Figure:
    """Agreement and KL against measured speed-up, a line a method."""
    sheet = canvas(920, 470)
    condition = result["conditions"][0]
    panels = [
        (axes(sheet, 70, 50, 370, 300), "agreement", 100.0, "same answer as the original, %"),
        (axes(sheet, 525, 50, 370, 300), "kl", 1.0, "KL from the original, nats"),
    ]
    for panel, key, scale, title in panels:
        for method in result["methods"]:
            _line(panel, method, condition, key, scale)
        panel.set_title(title)
        panel.set_xlabel(f"measured speed-up, {condition}")
    panels[1][0].set_yscale("log")
    panels[1][0].yaxis.set_major_formatter("{x:g}")
    panels[0][0].set_ylim(bottom=max(_LOWEST_AGREEMENT, panels[0][0].get_ylim()[0]))
    handles, labels = panels[0][0].get_legend_handles_labels()
    sheet.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=10.5)
    return sheet


def _line(panel: Axes, method: dict[str, Any], condition: str, key: str, scale: float) -> None:
    points = sorted((point["speedup"][condition]["ratio"], scale * point[key]["mean"]) for point in method["points"])
    colour, line, marker = _LOOKS[method["name"]]
    panel.plot(
        [speedup for speedup, _ in points],
        [value for _, value in points],
        color=colour,
        linestyle=line or "none",
        marker=marker,
        markersize=5,
        linewidth=2.2 if method["name"].startswith("ranksmith") else 1.4,
        label=method["title"],
    )

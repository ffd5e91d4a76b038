"""The report: one HTML page that needs nothing but itself, and its figures and tables as files beside it.

The page holds no script and, by its own content policy, loads nothing. Text from the model, such as node
names, is escaped by the template engine.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ranksmith.files import atomic_directory, atomic_file
from ranksmith.report import story, text
from ranksmith.report.decisions import changed, is_reference, rank_words, verdict_words
from ranksmith.report.drawing import themed
from ranksmith.report.evidence import layer_audit, provider_rows
from ranksmith.report.families import FAMILIES, family
from ranksmith.report.figure_frontier import off_scale
from ranksmith.report.figures import figures
from ranksmith.report.tables import tables
from ranksmith.results import Manifest

__all__ = ["render", "write_report"]

_DESCRIPTIONS = {
    "frontier": "Speedup against accuracy lost, for every evaluated plan",
    "latency": "Distribution of the latencies of the original and of the result, and their paired ratios",
    "layers": "Milliseconds of each Conv before and after, with the prediction",
    "prediction": "Predicted against measured milliseconds of whole models",
    "audit": "Predicted against measured milliseconds of the changed Convs",
    "spectra": "Retained energy against rank, a small figure for each Conv",
    "errors": "Relative error of each Conv's output against rank",
}


def render(manifest: Manifest) -> str:
    """The page as HTML; the same manifest gives the same text."""
    return _page(manifest, figures(manifest))


def write_report(manifest: Manifest, directory: Path) -> Path:
    """Write `report.html` and `report/` into `directory`, replacing those that are there; the page's path.

    Everything is drawn before the first byte is written.

    Raises:
        OutputError: the disk is full, or the directory cannot be written to.
    """
    wide = figures(manifest)
    html, csvs = _page(manifest, wide), tables(manifest)
    with atomic_directory(directory / "report", overwrite=True) as folder:
        for name, svg in wide.items():
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        for name, csv in csvs.items():
            (folder / name).write_text(csv, encoding="utf-8")
    page = directory / "report.html"
    with atomic_file(page, overwrite=True) as partial:
        partial.write_text(html, encoding="utf-8")
    return page


def _page(manifest: Manifest, wide: dict[str, str]) -> str:
    environment = Environment(
        loader=PackageLoader("ranksmith.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": text.count,
        "duration": text.duration,
        "file_size": text.file_size,
        "family": lambda point: FAMILIES[family(point)].label,
        "millinats": text.millinats,
        "nats": text.nats,
        "rank_words": rank_words,
        "ms": text.milliseconds,
        "percent": text.percent,
        "points": text.points,
        "printable": text.printable,
        "ratio": text.ratio,
        "verdict_words": verdict_words,
    }
    environment.tests |= {"changed": changed, "reference": is_reference}
    narrow = figures(manifest, narrow=True)
    drawings = {
        name: [
            # Matplotlib escapes what it writes between tags, and `themed` what it puts into them.
            Markup(themed(svg[name], f"{name}-{variant}", str(escape(_DESCRIPTIONS[name]))))  # noqa: S704
            for variant, svg in (("wide", wide), ("narrow", narrow))
        ]
        for name in wide
    }
    return environment.get_template("report.html.j2").render(
        m=manifest,
        figures=drawings,
        names=dict(
            zip(
                [layer.node for layer in manifest.layers],
                text.short_names([layer.node for layer in manifest.layers], 32),
                strict=True,
            )
        ),
        summary=story.summary(manifest),
        before_after=story.before_after(manifest),
        change=story.change(manifest),
        drop=story.drop_scale(manifest),
        reasons=story.reason_groups(manifest.layers),
        off_scale=bool(off_scale(manifest)),
        layer_audit=layer_audit(manifest.layers),
        providers=provider_rows(manifest),
        interval=text.interval,
        dash=text.DASH,
    )

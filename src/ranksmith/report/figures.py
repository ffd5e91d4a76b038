"""Every figure of a report, from its manifest alone.

Each is drawn twice: `wide` for a desktop's column and `narrow` for a phone's, since one drawing scaled to both
would be unreadable on one of them.
"""

from __future__ import annotations

from ranksmith.report.figure_audit import audit_svg, prediction_svg
from ranksmith.report.figure_frontier import frontier_svg
from ranksmith.report.figure_latency import latency_svg
from ranksmith.report.figure_layers import layers_svg
from ranksmith.report.figure_spectra import errors_svg, spectra_svg
from ranksmith.results import Manifest

__all__ = ["figures"]


def figures(manifest: Manifest, *, narrow: bool = False) -> dict[str, str]:
    """SVG texts by name: frontier, latency, prediction, audit, layers, spectra, errors.

    A figure whose numbers the manifest does not hold is left out: no layer times, no changed layer, no prediction.
    """
    drawn: dict[str, str | None] = {
        "frontier": frontier_svg(manifest, narrow=narrow) if manifest.frontier else None,
        "latency": latency_svg(manifest.latency, narrow=narrow) if manifest.latency else None,
        "prediction": prediction_svg(manifest.prediction, narrow=narrow),
        "audit": audit_svg(manifest.layers, narrow=narrow),
        "layers": layers_svg(manifest.layers, narrow=narrow),
        "spectra": spectra_svg(manifest, narrow=narrow) if manifest.spectra else None,
        "errors": errors_svg(manifest, narrow=narrow) if manifest.rank_errors else None,
    }
    return {name: svg for name, svg in drawn.items() if svg is not None}

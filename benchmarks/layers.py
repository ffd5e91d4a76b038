"""What makes low rank fast or slow: aligned ranks against the same ranks plus three.

Every 3x3 Conv of a model is replaced by a chain of the shape that a decomposition kind would give it, at
about half rank, once with ranks that fill whole channel blocks and once with three channels more. Time
depends on shapes, not on values, so the weights are random. All variants and the original run interleaved in
one process; what is reported is the median of the paired ratios with its bootstrap 95 % interval.

Run:  python benchmarks/layers.py ../shared/models/resnet50-v1.onnx
It writes docs/benchmarks/layers.md and layers.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.fold import fold
from ranksmith.graph.normalize import normalize
from ranksmith.graph.query import conv_infos, conv_layer
from ranksmith.graph.query import cost as model_cost
from ranksmith.measure.bootstrap import paired_ratio_ci95
from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.runtime.machine import channel_block, machine
from ranksmith.runtime.session import open_session

SEED = 0
OFF_BLOCK = 3
# What the design document measured, for comparison: (aligned, the same ranks plus three).
DESIGN = {"output PCA": (1.25, 1.17), "spatial": (1.29, 1.20), "Tucker-2": (1.43, 1.29)}


def random_conv(shape: tuple[int, ...], rng: np.random.Generator, **geometry: object) -> ConvLayer:
    """A Conv with He-scaled weights, so that activations neither vanish nor overflow."""
    scale = np.sqrt(2.0 / np.prod(shape[1:]))
    return ConvLayer((rng.standard_normal(shape) * scale).astype(np.float32), **geometry)  # type: ignore[arg-type]


def chain(layer: ConvLayer, kind: str, block: int, extra: int, rng: np.random.Generator) -> tuple[ConvLayer, ...]:
    """The shapes of `kind` at about half rank: half of the channels, or as many multiply-adds as that."""
    outputs, inputs = layer.out_channels, layer.in_channels
    half = block * max(1, round(outputs / 2 / block))
    strides, pads, bias = layer.strides, layer.pads, np.zeros(outputs, np.float32)
    if kind == "output PCA":
        rank = half + extra
        return (
            random_conv((rank, inputs, 3, 3), rng, strides=strides, pads=pads),
            random_conv((outputs, rank, 1, 1), rng, bias=bias),
        )
    if kind == "Tucker-2":
        rank = half + extra
        return (
            random_conv((rank, inputs, 1, 1), rng),
            random_conv((rank, rank, 3, 3), rng, strides=strides, pads=pads),
            random_conv((outputs, rank, 1, 1), rng, bias=bias),
        )
    # Spatial: 6·r·C multiply-adds a position against 5·C² of output PCA at half rank.
    rank = block * max(1, round(5 * outputs / 6 / block)) + extra
    top, left, bottom, right = pads
    return (
        random_conv((rank, inputs, 3, 1), rng, strides=(strides[0], 1), pads=(top, 0, bottom, 0)),
        random_conv((outputs, rank, 1, 3), rng, strides=(1, strides[1]), pads=(0, left, 0, right), bias=bias),
    )


def variants(path: Path, block: int) -> dict[str, tuple[bytes, int]]:
    """Name to (serialised model, MACs): the original first."""
    model = io.load(path)
    normalize(model)
    fold(model)
    nodes = [info.node for info in conv_infos(model) if info.weight_shape[2:] == [3, 3] and info.group == 1]
    result = {"original": (path.read_bytes(), model_cost(model)[0] or 0)}
    for kind in DESIGN:
        for name, extra in (("aligned", 0), (f"plus {OFF_BLOCK}", OFF_BLOCK)):
            rng = np.random.default_rng(SEED)
            changed = model.clone()
            for node in nodes:
                replace_conv(changed, node, chain(conv_layer(model, node), kind, block, extra, rng))
            normalize(changed)  # for the shapes that the count of multiply-adds needs
            result[f"{kind}, {name}"] = (io.to_bytes(changed), model_cost(changed)[0] or 0)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/layers.md"))
    arguments = parser.parse_args()

    block = channel_block("cpu")
    built = variants(arguments.model, block)
    sessions = [open_session(model, threads=arguments.threads) for model, _ in built.values()]
    feeds = random_feeds(sessions[0], arguments.batch, SEED)
    runners = [lambda session=session: session.run(feeds) for session in sessions]
    samples = paired_latency(runners, pairs=arguments.rounds, seed=SEED)
    base_macs = built["original"][1]
    rows = []
    for column, (name, (_, macs)) in enumerate(built.items()):
        speedup = paired_ratio_ci95(samples[:, 0], samples[:, column], SEED)
        rows.append(
            {
                "variant": name,
                "macs_ratio": base_macs / macs,
                "ratio": speedup.ratio,
                "ci95": speedup.ci95,
                "p50_ms": float(np.median(samples[:, column])),
            }
        )
    where = machine()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".json").write_text(
        json.dumps(
            {
                "machine": {"cpu": where.cpu, "flags": where.flags, "libraries": where.libraries},
                "threads": arguments.threads,
                "batch": arguments.batch,
                "rounds": len(samples),
                "block": block,
                "rows": rows,
            },
            indent=2,
        )
        + "\n"
    )
    by_name = {row["variant"]: row for row in rows}

    def cell(name: str) -> str:
        row = by_name[name]
        low, high = row["ci95"]
        return f"{row['ratio']:.2f}x ({low:.2f} to {high:.2f}), MACs ÷ {row['macs_ratio']:.2f}"

    lines = [
        "# Aligned ranks",
        "",
        f"All 3×3 Convs of `{arguments.model.name}` at about half rank, by `benchmarks/layers.py`: speed-up over",
        "the original (median of paired ratios, 95 % interval) and how many times fewer multiply-adds.",
        "",
        f"Machine: {where.cpu}, {where.cores} cores, onnxruntime {where.libraries.get('onnxruntime')}, CPU provider,",
        f"{arguments.threads} thread(s), batch {arguments.batch}, {len(samples)} rounds; channel blocks of {block}.",
        "",
        f"| kind | aligned ranks | the same plus {OFF_BLOCK} | design document |",
        "|---|---|---|---|",
    ]
    for kind, (aligned, off) in DESIGN.items():
        measured = f"{cell(f'{kind}, aligned')} | {cell(f'{kind}, plus {OFF_BLOCK}')}"
        lines.append(f"| {kind} | {measured} | {aligned:.2f}x, {off:.2f}x |")
    arguments.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

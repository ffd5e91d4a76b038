"""Synthetic manifests of the shape of a real run: invented numbers, ResNet-50's 53 Convs and names.

Nothing here was measured. Every number comes from a seeded generator, so that two calls give equal manifests.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from ranksmith.results import (
    Accuracy,
    BatchCost,
    Cost,
    DataUse,
    FileInfo,
    FrontierPoint,
    LatencyPair,
    LayerRecord,
    Machine,
    Manifest,
    Preprocess,
    Score,
    Spectrum,
    ValueInfo,
)

__all__ = ["faster", "kept_original", "tiny", "unlabelled"]


@dataclass(frozen=True)
class _Conv:
    node: str
    inputs: int
    outputs: int
    kernel: int
    size: int
    """Height and width of the output."""

    @property
    def macs(self) -> int:
        return self.inputs * self.outputs * self.kernel**2 * self.size**2

    def macs_at(self, rank: int) -> int:
        return rank * (self.inputs * self.kernel**2 + self.outputs) * self.size**2

    @property
    def break_even(self) -> int:
        inner = self.inputs * self.kernel**2
        return inner * self.outputs // (inner + self.outputs)


def _resnet50() -> list[_Conv]:
    convs = [_Conv("conv1", 3, 64, 7, 112)]
    channels = 64
    for stage, (blocks, width, size) in enumerate([(3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)], start=2):
        for block in range(blocks):
            name = f"res{stage}{chr(ord('a') + block)}_branch"
            convs.append(_Conv(f"{name}2a", channels, width, 1, size))
            convs.append(_Conv(f"{name}2b", width, width, 3, size))
            convs.append(_Conv(f"{name}2c", width, width * 4, 1, size))
            if block == 0:
                convs.append(_Conv(f"{name}1", channels, width * 4, 1, size))
            channels = width * 4
    return convs


def _spectrum(conv: _Conv, rng: np.random.Generator) -> Spectrum:
    def energy(steepness: float) -> list[float]:
        values = np.exp(-steepness * np.sqrt(np.arange(conv.outputs) / conv.outputs))
        return [round(float(value), 6) for value in np.cumsum(values) / values.sum()]

    steepness = float(rng.uniform(7, 13))
    return Spectrum(node=conv.node, output=energy(steepness), weight=energy(steepness / 3))


def _layer(conv: _Conv, spectrum: Spectrum, rng: np.random.Generator) -> LayerRecord:
    # Small images leave a kernel's threads idle, so late layers are slower per multiply-add.
    baseline_ms = conv.macs / 95e6 * (1.0 + 2.0 / conv.size) * float(rng.uniform(0.92, 1.08))
    kind: str | None = None
    rank: int | None = None
    macs_after, predicted_ms, measured_ms = conv.macs, baseline_ms, baseline_ms * float(rng.uniform(0.98, 1.02))
    energy: float | None = None
    draw = float(rng.uniform())
    aligned = int(conv.break_even * rng.uniform(0.5, 0.75)) // 16 * 16
    if conv.inputs == 3:
        reason, detail = "kept-stem", "the first Conv has too few input channels to gain from a decomposition"
    elif aligned < 16:
        reason, detail = "kept-small", "no rank that fills whole channel blocks has fewer multiply-adds than the Conv"
    elif draw < (0.2 if conv.kernel == 3 else 0.6):
        reason = "kept-sensitive"
        detail = (
            f"the mildest rank that pays ({aligned}) would lose {1 - spectrum.output[aligned - 1]:.2%} of its output's "
            "energy for the time it saves; other layers lose less"
        )
    elif draw < (0.25 if conv.kernel == 3 else 0.8):
        reason, detail = "kept-slower", "none of 7 ranks was faster in context: rank 48 took 1.06 of the Conv's time"
    else:
        reason, kind, rank = "decomposed", "output-pca", aligned
        macs_after, energy = conv.macs_at(rank), spectrum.output[rank - 1]
        predicted_ms = baseline_ms * macs_after / conv.macs * float(rng.uniform(1.0, 1.08))
        measured_ms = predicted_ms * float(rng.uniform(0.94, 1.12))
        share = predicted_ms / baseline_ms
        detail = f"rank {rank} keeps {energy:.2%} of its output's energy and takes {share:.2f} of the Conv's time"
    return LayerRecord(
        node=conv.node,
        kind=kind,
        rank=rank,
        full_rank=conv.outputs,
        break_even_rank=conv.break_even,
        precision="fp32",
        macs_before=conv.macs,
        macs_after=macs_after,
        retained_energy=energy,
        predicted_ms=predicted_ms,
        measured_ms=measured_ms,
        baseline_ms=baseline_ms,
        reason=reason,
        detail=detail,
    )


def _latency(batch: int, typical_ms: float, ratio: float, rng: np.random.Generator) -> LatencyPair:
    load = rng.lognormal(0.0, 0.025, 120) + rng.exponential(0.02, 120)
    baseline = typical_ms * load * rng.lognormal(0.0, 0.012, 120)
    result = typical_ms / ratio * load * rng.lognormal(0.0, 0.012, 120)
    median = float(np.median(baseline / result))
    return LatencyPair(
        batch=batch,
        threads=2,
        baseline_ms=[round(float(value), 4) for value in baseline],
        result_ms=[round(float(value), 4) for value in result],
        ratio=median,
        ci95=(median - 0.006, median + 0.007),
    )


def _frontier(rng: np.random.Generator, *, chosen: int | None, folded_chosen: bool) -> list[FrontierPoint]:
    macs = 3_857_973_248

    def point(name: str, speedup: float, drop: float, agreement: float, kl: float, **rest: object) -> FrontierPoint:
        fields = {"plan": None, "speedup_ci95": None, "chosen": False, "macs": int(macs / speedup)} | rest
        return FrontierPoint(
            name=name,
            params=25_530_472,
            speedup=speedup,
            selection_drop_pp=drop,
            selection_agreement=agreement,
            selection_kl=kl,
            **fields,  # type: ignore[arg-type]
        )

    points = [
        point("original", 1.0, 0.0, 1.0, 0.0),
        point("folded", 1.002, 0.0, 1.0, 2e-9, speedup_ci95=(0.996, 1.008), chosen=folded_chosen),
    ]
    for number, speedup in enumerate(np.linspace(1.05, 1.62, 12)):
        harm = (float(speedup) - 1.0) ** 2
        measured = chosen is not None and abs(number - chosen) <= 1
        points.append(
            point(
                f"low-rank-{number + 1:02d}",
                float(speedup),
                round(harm * 7 + float(rng.normal(0, 0.15)), 1),
                round(1 - harm * 0.13 - float(rng.uniform(0, 0.004)), 3),
                harm * 0.08 + 0.0006,
                plan=f"low-rank-{number + 1:02d}.json",
                speedup_ci95=(float(speedup) - 0.012, float(speedup) + 0.013) if measured else None,
                chosen=number == chosen,
            )
        )
    return points


def faster() -> Manifest:
    """A ResNet-50 made faster, judged on labelled images."""
    rng = np.random.default_rng(20)
    convs = _resnet50()
    spectra = [_spectrum(conv, rng) for conv in convs]
    layers = [_layer(conv, spectrum, rng) for conv, spectrum in zip(convs, spectra, strict=True)]
    frontier = _frontier(rng, chosen=4, folded_chosen=False)
    return Manifest(
        ranksmith="0.1.0",
        command="ranksmith compress resnet50-v1.onnx --data imagenet-sample --labels imagenet-labels.txt -o r50",
        created="2031-04-05T06:07:08Z",
        verdict="faster",
        source=FileInfo(name="resnet50-v1.onnx", sha256="5f" * 32, bytes=102_170_216),
        model=FileInfo(name="model.onnx", sha256="a3" * 32, bytes=81_904_332),
        inputs=[ValueInfo(name="data", dtype="float32", shape=["N", 3, 224, 224])],
        outputs=[ValueInfo(name="logits", dtype="float32", shape=["N", 1000])],
        preprocess=Preprocess(name="imagenet", size=(224, 224), resize_shorter=256),
        labels=[f"class {index}" for index in range(1000)],
        machine=Machine(
            cpu="Example EX-9000 16-Core Processor",
            flags=["avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
            cores=2,
            memory_bytes=25_769_803_776,
            os="Linux 6.1 (x86_64)",
            python="3.12.4",
            libraries={"numpy": "2.4.6", "onnx": "1.20.0", "onnxruntime": "1.32.0", "scipy": "1.17.0"},
        ),
        provider="cpu",
        threads=2,
        precision="fp32",
        objective="latency",
        max_drop_pp=1.0,
        seed=0,
        data=DataUse(
            name="imagenet-sample",
            calibration=100,
            calibration_sha256="0c" * 32,
            selection=133,
            holdout=266,
            skipped=1,
        ),
        accuracy=Accuracy(
            images=266,
            labelled=True,
            baseline=Score(top1=0.9135, top1_ci95=(0.8797, 0.9474), top5=0.985),
            result=Score(top1=0.9098, top1_ci95=(0.8759, 0.9436), top5=0.985),
            drop_pp=0.38,
            drop_ci95_pp=(-0.75, 1.5),
            agreement=0.9774,
            agreement_ci95=(0.9586, 0.9925),
            kl=0.0112,
        ),
        latency=[_latency(1, 45.9, 1.252, rng), _latency(8, 339.0, 1.231, rng)],
        cost_before=Cost(macs=3_857_973_248, params=25_530_472, bytes=102_170_216),
        cost_after=Cost(macs=sum(layer.macs_after or 0 for layer in layers), params=20_462_184, bytes=81_904_332),
        layers=layers,
        spectra=spectra,
        rank_errors={s.node: [round(max(0.0, 1 - energy) ** 0.5, 5) for energy in s.output] for s in spectra},
        frontier=frontier,
        batch_cost=BatchCost(alpha_ms=3.1, beta_ms=29.4, batches=[1, 2, 4, 8], latency_ms=[32.1, 61.4, 121.0, 245.7]),
        stages_s={
            "fold": 1.4,
            "statistics": 48.2,
            "latency table": 131.6,
            "choose": 96.3,
            "gate": 74.9,
            "accuracy": 41.7,
            "write": 6.2,
        },
        warnings=["one image of imagenet-sample could not be read and was left out: n02105855/cut-short.JPEG"],
    )


def kept_original() -> Manifest:
    """Nothing paid on this machine: the bundle holds the folded original."""
    rng = np.random.default_rng(21)
    base = faster()
    replace = msgspec.structs.replace
    layers = [
        replace(
            layer,
            kind=None,
            rank=None,
            macs_after=layer.macs_before,
            retained_energy=None,
            predicted_ms=layer.baseline_ms,
            measured_ms=layer.baseline_ms,
            reason="kept-original",
            detail="the model as a whole was not measurably faster within the accuracy asked for",
        )
        if layer.reason == "decomposed"
        else layer
        for layer in base.layers
    ]
    exact = replace(
        base.accuracy,
        result=base.accuracy.baseline,
        drop_pp=0.0,
        drop_ci95_pp=(0.0, 0.0),
        agreement=1.0,
        agreement_ci95=(1.0, 1.0),
        kl=2e-10,
    )
    return replace(
        base,
        verdict="kept-original",
        accuracy=exact,
        latency=[_latency(1, 45.9, 1.001, rng), _latency(8, 339.0, 0.999, rng)],
        layers=layers,
        frontier=_frontier(rng, chosen=None, folded_chosen=True),
        cost_after=replace(base.cost_before, bytes=101_960_020),
        warnings=[],
    )


def unlabelled() -> Manifest:
    """As `faster`, on images without labels: agreement stands in for accuracy."""
    base = faster()
    replace = msgspec.structs.replace
    nothing = Score(top1=None, top1_ci95=None, top5=None)
    return replace(
        base,
        labels=None,
        accuracy=replace(
            base.accuracy,
            labelled=False,
            baseline=nothing,
            result=nothing,
            drop_pp=2.26,
            drop_ci95_pp=(0.75, 4.14),
        ),
        frontier=[
            replace(point, selection_drop_pp=round(100 * (1 - point.selection_agreement), 2)) for point in base.frontier
        ],
        max_drop_pp=3.0,
    )


def tiny() -> Manifest:
    """The least a manifest may hold: one layer nothing is known of, one sample, hostile names."""
    base = faster()
    replace = msgspec.structs.replace
    name = '<script>alert("$x_1$")</script>\n{{ 7 * 7 }}'
    layer = replace(
        base.layers[0],
        node=name,
        macs_before=None,
        macs_after=None,
        predicted_ms=None,
        measured_ms=None,
        baseline_ms=None,
        detail=f"{name} has too few channels",
    )
    return replace(
        base,
        source=replace(base.source, name=f"{name}.onnx"),
        command=f"ranksmith compress '{name}'",
        layers=[layer],
        spectra=[Spectrum(node=name, output=[1.0], weight=[1.0])],
        rank_errors={name: [0.0]},
        latency=[LatencyPair(batch=1, threads=1, baseline_ms=[2.0], result_ms=[1.0], ratio=2.0, ci95=(2.0, 2.0))],
        frontier=base.frontier[:1],
        cost_before=replace(base.cost_before, macs=None),
        cost_after=replace(base.cost_after, macs=None),
        stages_s={},
        warnings=[name],
    )

"""What `compress` gains, measured outside ranksmith's own code.

It runs `ranksmith compress` as a user would, then times the original file and the bundle's model.onnx with nothing but
onnxruntime and a loop: the same threads for both, every other setting onnxruntime's default but for spinning (a
spinning pool would steal time from the other model of the pair), a random one of the two first in each round.

Run:  python benchmarks/compress.py MODEL [--data D] [--preprocess P]     (demo, or an ONNX file with its images)
With --bundle it times one that is there already, and says the command that made it.
It writes docs/benchmarks/compress-NAME.md and .json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ranksmith.workflow.source import resolve

ROUNDS = 40
SEED = 0


def plain_session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def paired_ratio(paths: tuple[Path, Path], batch: int, threads: int) -> tuple[float, float, float]:
    """Median of original / result over the rounds, with its bootstrap 95 % interval."""
    sessions = [plain_session(path, threads) for path in paths]
    info = sessions[0].get_inputs()[0]
    rng = np.random.default_rng(SEED)
    feeds = {info.name: rng.standard_normal((batch, *info.shape[1:])).astype(np.float32)}
    for session in sessions:
        for _ in range(5):
            session.run(None, feeds)
    started = time.perf_counter()
    sessions[0].run(None, feeds)
    calls = max(1, round(0.02 / (time.perf_counter() - started)))
    ratios = []
    for _ in range(ROUNDS):
        elapsed = [0.0, 0.0]
        for index in rng.permutation(2):
            started = time.perf_counter()
            for _ in range(calls):
                sessions[index].run(None, feeds)
            elapsed[index] = time.perf_counter() - started
        ratios.append(elapsed[0] / elapsed[1])
    resampled = np.median(rng.choice(ratios, (4000, ROUNDS)), axis=1)
    return float(np.median(ratios)), *(float(edge) for edge in np.percentile(resampled, [2.5, 97.5]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data")
    parser.add_argument("--calibration-data")
    parser.add_argument("--preprocess")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--name", help="of the page, if not the model's")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    arguments = parser.parse_args()
    source = resolve(arguments.model)
    given = {
        name: getattr(arguments, name) for name in ("data", "calibration_data", "preprocess", "threads", "precision")
    }
    options = [part for name, value in given.items() if value for part in (f"--{name.replace('_', '-')}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or Path(folder) / "bundle"
        command = ["compress", arguments.model, *options, "--output", str(bundle)]
        if arguments.bundle is None:
            subprocess.run([sys.executable, "-m", "ranksmith", *command], stdout=subprocess.DEVNULL, check=True)
        manifest = json.loads((bundle / "manifest.json").read_text())
        plain = {
            f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}": paired_ratio(
                (source.path, bundle / "model.onnx"), batch, threads
            )
            for batch, threads in ((1, 1), (1, 2), (8, 2))
        }
    shown = shlex.join(["ranksmith", *command[:-2], "-o", "BUNDLE"])
    write(arguments, arguments.name or source.name, shown, manifest, plain)


def write(
    arguments: argparse.Namespace,
    name: str,
    command: str,
    manifest: dict,
    plain: dict[str, tuple[float, float, float]],
) -> None:
    accuracy, where = manifest["accuracy"], manifest["machine"]
    seconds = sum(manifest["stages_s"].values())
    runtime = where["libraries"]["onnxruntime"]
    decomposed = sum(layer["reason"] == "decomposed" for layer in manifest["layers"])
    integer = sum(layer["precision"] == "int8" for layer in manifest["layers"])
    before, after = manifest["cost_before"]["macs"], manifest["cost_after"]["macs"]
    interval = "{:.2f} to {:.2f}".format(*accuracy["drop_ci95_pp"])
    lines = [
        f"# compress: {name}",
        "",
        "By `benchmarks/compress.py`, which runs",
        "",
        f"    {command}",
        "",
        "and then times the original file and the bundle's `model.onnx` in plain onnxruntime, interleaved.",
        "",
        f"Machine: {where['cpu']}, {where['cores']} cores, CPU provider of onnxruntime {runtime}.",
        "",
        "| plain onnxruntime | speed-up | 95 % interval |",
        "|---|---|---|",
        *(f"| {what} | {ratio:.3f}x | {lower:.3f} to {upper:.3f} |" for what, (ratio, lower, upper) in plain.items()),
        "",
        "| | |",
        "|---|---|",
        f"| verdict | {manifest['verdict']} |",
        f"| top-1 lost, asked for at most {manifest['max_drop_pp']:g} pp | {accuracy['drop_pp']:.2f} pp ({interval}) |",
        f"| held-out images | {accuracy['images']} |",
        f"| top-1 | {accuracy['baseline']['top1']:.4f} before, {accuracy['result']['top1']:.4f} after |",
        f"| same answer as the original | {accuracy['agreement']:.1%} |",
        f"| Convs decomposed | {decomposed} of {len(manifest['layers'])} |",
        f"| Convs in int8 | {integer} of {len(manifest['layers'])} |",
        f"| multiply-adds | {before / 1e6:,.0f} M before, {after / 1e6:,.0f} M after (÷ {before / after:.2f}) |",
        f"| time of the whole run | {seconds:.0f} s |",
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / f"compress-{name}"
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")
    kept = ("verdict", "accuracy", "cost_before", "cost_after", "machine", "threads", "stages_s", "data")
    target.with_suffix(".json").write_text(
        json.dumps({"plain_onnxruntime": plain, **{key: manifest[key] for key in kept}}, indent=2) + "\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()

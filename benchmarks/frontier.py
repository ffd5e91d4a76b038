"""Ours against its peers at equal measured milliseconds.

Every method makes ONNX models of one source: uniform weight SVD, output PCA by energy, int8 alone, AIMET's spatial
SVD with its own rank selection (where there is an interpreter with aimet-torch), and the plans on the frontiers of
bundles that `ranksmith compress` wrote. All calibrate on the same images, are judged on the same others, and are timed
interleaved with the folded original. At each target speed-up the methods' answers are then compared: by a model
within 1.5 % of it, which is searched for where a method has a parameter to turn, or between its two neighbours in
time (`peers/equal_time.py`).

Run:  python benchmarks/frontier.py MODEL [--data D] [--bundle B] [--aimet-python PYTHON]
It writes docs/benchmarks/frontier-NAME.md, .json and .svg. Models, answers and times are kept in --work, so a run that
was interrupted goes on where it was; --quick tries the whole of it out in a few minutes.

AIMET is the optional group `peers`; as it pins a good deal, an interpreter of its own may be better, with torch,
aimet-torch and onnx. Where no build of torchvision fits the torch, install aimet-torch with --no-deps and the rest
of its requirements by hand: its compression imports torchvision, but does not use it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from peers import aimet, methods, page
from peers.equal_time import at_speedup, parameter_at
from peers.measured import Bench, Condition
from peers.setting import Candidate, Method, Setting, open_setting
from peers.summary import Measured, anchor_line, described, equal_time

import ranksmith
from ranksmith import config
from ranksmith.cli.output import make_progress
from ranksmith.graph.query import cost
from ranksmith.runtime.machine import channel_block, machine
from ranksmith.runtime.session import default_threads
from ranksmith.workflow.source import resolve

# Full runs and --quick: the parameters a method starts with.
FRACTIONS = ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.8, 0.5])
ENERGIES = ([0.9999, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.95], [0.999, 0.98])
MACS_KEPT = ([0.9, 0.8, 0.7, 0.6, 0.5], [0.7])
PAIRS = (40, 6)
PLANS = (12, 3)
SEARCH_ROUNDS = (3, 1)


def main() -> None:
    arguments = parse()
    progress = make_progress()
    source = resolve(arguments.model, progress=progress)
    work = arguments.work or config.cache_dir() / "frontier" / source.name
    work.mkdir(parents=True, exist_ok=True)
    setting = open_setting(
        source,
        data=arguments.data,
        calibration_data=arguments.calibration_data,
        preprocess=arguments.preprocess,
        calibration=arguments.calibration,
        limit=arguments.limit,
        with_selection=arguments.with_selection,
        seed=arguments.seed,
        threads=default_threads(),
        work=work,
        progress=progress,
    )
    bundles = arguments.bundle or [compressed(arguments, work)]
    listed, notes = all_methods(arguments, setting, bundles)
    bench = Bench(setting, PAIRS[arguments.quick])
    conditions = [Condition(*(int(part) for part in text.split("x"))) for text in arguments.conditions]
    measured = measure(bench, listed, conditions, arguments.targets, SEARCH_ROUNDS[arguments.quick])
    write(arguments, setting, bench, measured, conditions, notes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an ONNX file, or `demo`")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--calibration-data", type=Path)
    parser.add_argument("--preprocess")
    parser.add_argument("--calibration", type=int, default=128, help="calibration images, as compress's option")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bundle", type=Path, nargs="+", help="written by `ranksmith compress`; by default it is run first"
    )
    parser.add_argument("--targets", type=float, nargs="+", default=[1.3, 1.5])
    parser.add_argument(
        "--conditions", nargs="+", default=["1x1", "8x2"], metavar="BATCHxTHREADS", help="first: judged"
    )
    parser.add_argument("--limit", type=int, help="judge on so many images only")
    parser.add_argument("--with-selection", action="store_true", help="judge on compress's selection images too")
    parser.add_argument("--aimet-python", default=sys.executable, help="an interpreter that has aimet-torch")
    parser.add_argument("--aimet-images", type=int, default=64, help="calibration images that AIMET scores ranks on")
    parser.add_argument("--aimet-steps", type=int, default=10, help="AIMET's num_comp_ratio_candidates (its default)")
    parser.add_argument("--aimet-kernels", choices=("all", "kxk"), default="kxk", help="kxk: leave 1x1 Convs alone")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="these methods only")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", type=Path, help="where models, answers and times are kept")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    return parser.parse_args()


def compressed(arguments: argparse.Namespace, work: Path) -> Path:
    """The bundle of `ranksmith compress` with the same images and seed, made unless it is there."""
    bundle: Path = work / f"bundle-{arguments.calibration}-{arguments.seed}"
    if not (bundle / "manifest.json").exists():
        given = {name: getattr(arguments, name) for name in ("data", "calibration_data", "preprocess")}
        options = [part for name, value in given.items() if value for part in (f"--{name.replace('_', '-')}", value)]
        counts = ["--calibration", arguments.calibration, "--seed", arguments.seed]
        command = ["compress", arguments.model, *options, *counts, "--output", bundle]
        subprocess.run([sys.executable, "-m", "ranksmith", *map(str, command)], check=True)
    return bundle


def all_methods(
    arguments: argparse.Namespace, setting: Setting, bundles: Sequence[Path]
) -> tuple[list[Method], list[str]]:
    """The methods in the order of the page, and what is to be said of those left out."""
    quick, block = arguments.quick, channel_block("cpu")
    listed = methods.ours(setting, bundles, PLANS[quick], arguments.targets)
    listed.append(methods.int8(setting))
    notes = []
    for aligned in (True, False):
        listed.append(methods.energy_pca(setting, block, ENERGIES[quick], aligned=aligned))
        listed.append(methods.uniform_svd(setting, block, FRACTIONS[quick], aligned=aligned))
        python = arguments.aimet_python
        if aimet.version(python) is not None:
            found = aimet.spatial_svd(
                setting,
                python,
                MACS_KEPT[quick],
                multiplicity=block if aligned else 1,
                images=arguments.aimet_images,
                steps=arguments.aimet_steps,
                kernels=arguments.aimet_kernels,
            )
            listed.append(found)
        elif aligned:
            notes.append("AIMET was left out: the interpreter of --aimet-python does not have aimet-torch")
    return [method for method in listed if not arguments.only or method.name in arguments.only], notes


def measure(
    bench: Bench, listed: Sequence[Method], conditions: Sequence[Condition], targets: Sequence[float], rounds: int
) -> list[Measured]:
    """Build, judge and time everything; then turn the parameters towards the targets."""
    found = [Measured(method) for method in listed]
    for measured in found:
        add(bench, measured, measured.method.candidates)
    anchor = found[0].models[len(found[0].models) // 2] if found[0].models else None
    for turn in range(rounds + 1):
        for condition in conditions:
            every = [model for measured in found for model in measured.models]
            timings = iter(bench.timings(every, condition, anchor))
            for measured in found:
                measured.timings[condition] = [next(timings) for _ in measured.models]
        if turn < rounds:
            more = [add(bench, measured, nearer(measured, conditions[0], targets)) for measured in found]
            if not any(more):
                break
    return found


def add(bench: Bench, measured: Measured, candidates: Sequence[Candidate]) -> bool:
    """Build and judge `candidates`, but for those that are a model again that is known, or the original."""
    before = len(measured.models)
    known = {bench.folded_sha256, *(model.sha256 for model in measured.models)}
    for candidate in candidates:
        model = bench.model(candidate)
        if model.sha256 not in known:
            known.add(model.sha256)
            measured.models.append(model)
            measured.answers.append(bench.answers(model))
    return len(measured.models) > before


def nearer(measured: Measured, condition: Condition, targets: Sequence[float]) -> list[Candidate]:
    """For each target that no model is at, one whose parameter lies between its neighbours', linearly in time."""
    if measured.method.at is None:
        return []
    speedups = measured.speedups(condition)
    parameters = [model.candidate.parameter for model in measured.models]
    away = [target for target in targets if at_speedup(speedups, target).how == "interpolated"]
    sought = [parameter_at(parameters, speedups, target) for target in away]
    return [measured.method.at(parameter) for parameter in sought if parameter is not None]


def write(
    arguments: argparse.Namespace,
    setting: Setting,
    bench: Bench,
    measured: Sequence[Measured],
    conditions: Sequence[Condition],
    notes: list[str],
) -> None:
    original, seed = bench.original(), setting.seed
    targets = {round(target, 3) for target in arguments.targets}
    targets |= {round(each.speedups(conditions[0])[0], 3) for each in measured if each.method.name == "int8"}
    result = {
        "model": setting.source.name,
        "source_sha256": setting.source_sha256,
        "command": shlex.join(["python", "benchmarks/frontier.py", *map(shown, sys.argv[1:])]),
        "ranksmith": ranksmith.__version__,
        "machine": msgspec.to_builtins(machine()),
        "conditions": [str(condition) for condition in conditions],
        "seed": seed,
        "pairs": bench.pairs,
        "block": channel_block("cpu"),
        "images": {"calibration": len(setting.calibration), "judged": len(setting.judged)},
        "labelled": setting.dataset.labels is not None,
        "top1": float(original.correct.mean()),
        "macs": cost(setting.folded)[0],
        "methods": [described(each, seed) for each in measured],
        "equal_time": [equal_time(measured, original, conditions[0], target, seed) for target in sorted(targets)],
        "anchor": anchor_line(measured, conditions[0]),
        "notes": notes,
    }
    name = f"frontier-{setting.source.name}"
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (arguments.output / f"{name}.svg").write_text(page.figure(result))
    text = page.markdown(result, name)
    (arguments.output / f"{name}.md").write_text(text)
    print(text)


def shown(argument: str) -> str:
    """An argument as it may be published: a path relative to here, or its name where it lies further away."""
    if not argument.startswith("/"):
        return argument
    relative = os.path.relpath(argument)
    return Path(argument).name if relative.startswith("../..") else relative


if __name__ == "__main__":
    main()

"""The benchmark's tables, on the terminal and as a Markdown page, from the results as JSON has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table as RichTable

from benchmarks.serving.processes import ENOUGH_IDLE
from benchmarks.serving.scenarios import alone, arrivals, kills, overload, swaps
from benchmarks.serving.servers import OURS, SERVERS

__all__ = ["markdown", "tables", "wrong_answers"]

Run = dict[str, Any]

# What a turn has of closed loops, and how it is called.
_WAYS = {"closed": "", "grpc": ", gRPC"}
_BAD = "refused / failed / wrong"


@dataclass(frozen=True)
class Table:
    title: str
    heads: list[str]
    rows: list[list[str]]

    def markdown(self) -> list[str]:
        rule = "|" + "---|" * len(self.heads)
        return [f"**{self.title}**", "", _line(self.heads), rule, *map(_line, self.rows), ""]

    def __rich__(self) -> RichTable:
        table = RichTable(*self.heads, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tables(model: dict[str, Any], scenario: str) -> list[Table]:
    """Of one scenario of one model."""
    return _TABLES[scenario](model[scenario])


def _throughput(told: dict[str, Any]) -> list[Table]:
    return [*(_closed(told, clients) for clients in told["clients"]), _cpu(told)]


def _closed(told: dict[str, Any], clients: int) -> Table:
    rows = []
    for name, turns in told["turns"].items():
        for kind, what in _WAYS.items():
            if all(kind in turn for turn in turns):
                runs = [turn[kind][str(clients)] for turn in turns]
                ours = [turn[kind][str(clients)] for turn in told["turns"].get(OURS, []) if kind in turn]
                rows.append([SERVERS[name].title + what, *_loop(runs), _beside(ours, runs, _of_the_loop, _p99_ms)])
    bare = told["bare"]
    limit = ["onnxruntime alone", _number(_median(bare["per_second"])), "1", "", "", "", ""]
    if clients == 1 and bare["latency_ms"]:
        limit[3] = _number(_median(bare["latency_ms"]))
    heads = ["", "requests/s", "of the loop", "p50 ms", "p99 ms", _BAD, "ranksmith's by its: requests/s; p99"]
    return Table(_clients(clients), heads, [limit, *rows])


def _beside(ours: list[Run], theirs: list[Run], *measures: Callable[[Run], float]) -> str:
    """What ours is of theirs in the same round: medians and quartiles; nothing where they are ours as well."""
    if ours == theirs or len(ours) != len(theirs):
        return ""
    told = []
    for measure in measures:
        ratios = [measure(own) / measure(other) for own, other in zip(ours, theirs, strict=True)]
        told.append(f"{_median(ratios):.2f} ({_quantile(ratios, 0.25):.2f} to {_quantile(ratios, 0.75):.2f})")
    return "; ".join(told)


def _of_the_loop(run: Run) -> float:
    return float(run["per_second"] / run["bare_per_second"])


def _p99_ms(run: Run) -> float:
    return float(run["latency"]["p99_ms"])


def _cpu_ms(run: Run) -> float:
    """Of all the server's processes, per request."""
    return float(sum(run["cpu_ms"].values()))


def _loop(runs: list[Run]) -> list[str]:
    ratios = [_of_the_loop(run) for run in runs]
    return [
        _number(_median(run["per_second"] for run in runs)),
        f"{_median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
        *_latencies(runs, "p50_ms", "p99_ms"),
        _bad(runs),
    ]


def _alone(told: dict[str, Any]) -> list[Table]:
    rows = []
    for name, turns in told.items():
        added = [turn["latency"]["p50_ms"] - turn["bare_latency_ms"] for turn in turns]
        rows.append(
            [
                SERVERS[name].title,
                _number(_median(turn["bare_latency_ms"] for turn in turns)),
                *_latencies(turns, "p50_ms", "p99_ms"),
                f"{_median(added):.2f} ({_quantile(added, 0.25):.2f} to {_quantile(added, 0.75):.2f})",
                _bad(turns),
            ]
        )
    heads = ["", "p50 ms of the loop", "p50 ms", "p99 ms", "added to the p50, ms", _BAD]
    title = f"One client, {alone.LAYOUT}; the bare loop of as many threads in turn; medians and quartiles of the turns"
    return [Table(title, heads, rows)]


def _arrivals(told: dict[str, Any]) -> list[Table]:
    ours = [turn["own"] for turn in told["turns"].get(OURS, [])]
    own, same = [], []
    for name, turns in told["turns"].items():
        runs = [turn["own"] for turn in turns]
        title, rate = SERVERS[name].title, _number(_median(turn["rate"] for turn in turns))
        own.append([title, rate, *_arrived(runs), _beside(ours, runs, _p99_ms)])
        if all("ours" in turn for turn in turns):
            in_its_place = [turn["ours"] for turn in turns]
            same.append([f"at that of {title}", rate, *_arrived(in_its_place), _beside(in_its_place, runs, _p99_ms)])
    heads = ["", "requests/s", "p50 ms", "p99 ms", "longest ms", "CPU ms a request", _BAD, "ranksmith's by its p99"]
    load = f"{arrivals.LOAD:.0%}"
    found = [Table(f"Poisson arrivals at {load} of the server's own capacity", heads, own)]
    if same:
        title = f"ranksmith in the peer's place: the same arrivals, at {load} of the peer's capacity"
        found.append(Table(title, ["", *heads[1:-1], "by the peer's p99"], same))
    return found


def _arrived(runs: list[Run]) -> list[str]:
    return [*_latencies(runs, "p50_ms", "p99_ms", "most_ms"), _range(map(_cpu_ms, runs)), _bad(runs)]


def _cpu(told: dict[str, Any]) -> Table:
    rows = []
    for name, turns in told["turns"].items():
        title = SERVERS[name].title
        for kind, what in _WAYS.items():
            for clients in told["clients"]:
                runs = [turn[kind][str(clients)] for turn in turns if kind in turn]
                if runs:
                    rows.append([title + what, _clients(clients), *_costs(runs)])
        if runs := [turn["health"] for turn in turns if "health" in turn]:
            speed = f"/v2/health/live, {_median(run['per_second'] for run in runs):,.0f}/s"
            rows.append([title, speed, *_costs(runs)])
    return Table("CPU per request, ms", ["", "", "of the server's processes", "of the client"], rows)


def _costs(runs: list[dict[str, Any]]) -> list[str]:
    return [_roles([run["cpu_ms"] for run in runs]), f"{_median(run['client_cpu_ms'] for run in runs):.3f}"]


def _clients(count: int) -> str:
    return f"{count} client{'' if count == 1 else 's'}"


def _roles(costs: list[dict[str, float]]) -> str:
    roles = sorted({role for cost in costs for role in cost} - {"supervisor", "gone"})
    return ", ".join(f"{role} {_median(cost.get(role, 0.0) for cost in costs):.3f}" for role in roles)


def _overload(told: dict[str, Any]) -> list[Table]:
    rows = [
        [
            f"{SERVERS[name].title}, {what}" if what else SERVERS[name].title,
            _number(run["capacity"]),
            f"{run['goodput']:.3f}",
            _number(run["latency"]["p99_ms"]),
            _number(run["lag"]["p99_ms"]),
            f"{run['refused']:,} of {run['sent']:,}",
            f"{_number(run['refusal']['p50_ms'])} / {_number(run['refusal']['p99_ms'])}",
            f"{sum(run['failed'].values()):,} / {run['wrong']}",
            f"{_megabytes(run['rss_bytes'])} → {_megabytes(run['peak_rss_bytes'])}",
        ]
        for name, runs in told.items()
        for what, run in runs.items()
    ]
    heads = [
        "",
        "capacity/s",
        "goodput / capacity",
        "p99 ms of answers",
        "p99 ms until sent",
        "refused",
        "refusals' p50 / p99 ms",
        "failed / wrong",
        "memory MB before → at most",
    ]
    return [Table(f"Overload: Poisson arrivals at {overload.TIMES:g} times the capacity", heads, rows)]


def _megabytes(sizes: dict[str, int]) -> str:
    return " + ".join(f"{role} {size / 1e6:,.0f}" for role, size in sorted(sizes.items()) if role != "supervisor")


def _latencies(runs: list[Run], *quantiles: str) -> list[str]:
    return [_number(_median(run["latency"][quantile] for run in runs)) for quantile in quantiles]


def _bad(runs: list[dict[str, Any]]) -> str:
    refused, wrong = (sum(run[key] for run in runs) for key in ("refused", "wrong"))
    return f"{refused} / {sum(sum(run['failed'].values()) for run in runs)} / {wrong}"


def _median(values: Iterable[float]) -> float:
    return _quantile(values, 0.5)


def _quantile(values: Iterable[float], share: float) -> float:
    return float(np.quantile(list(values), share))


def _range(values: Iterable[float]) -> str:
    """The median, and the least to the most."""
    found = list(values)
    return f"{_number(_median(found))} ({_number(min(found))} to {_number(max(found))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _kills(told: dict[str, Any]) -> list[Table]:
    rows = [
        [
            SERVERS[name].title,
            layout,
            f"{run['kills']}",
            _bad([run["killed"]]),
            f"{run['killed']['sent']:,}",
            *(_number(run[phase]["latency"]["p99_ms"]) for phase in ("quiet", "killed")),
            _number(run["killed"]["latency"]["most_ms"]),
            "yes" if run["is_answering"] else "no",
        ]
        for name, layouts in told.items()
        for layout, run in layouts.items()
    ]
    heads = ["", "", "kills", _BAD, "of requests", "p99 ms quiet", "p99 ms", "longest ms", "answers after"]
    rate = f"{kills.RATE:g} requests/s, or {kills.MOST_LOAD:.0%} of the capacity if that is less"
    return [Table(f"kill -9 of a worker every {kills.EVERY_S:g} s; {rate}", heads, rows)]


def _swaps(told: dict[str, Any]) -> list[Table]:
    quiet, swapped, each = told["quiet"], told["swapped"], told["swaps"]
    row = [
        SERVERS[OURS].title,
        f"{len(each)}",
        _bad([swapped]),
        f"{swapped['sent']:,}",
        *(_number(phase["latency"]["p99_ms"]) for phase in (quiet, swapped)),
        _number(swapped["latency"]["most_ms"]),
        *(f"{_median(swap['took_s'] for swap in each if swap['verb'] == verb):.1f}" for verb in ("deploy", "rollback")),
        " → ".join(f"{each[place]['rss_bytes'] / 1e6:,.0f}" for place in (1, -1)),
    ]
    heads = ["", "swaps", _BAD, "of requests", "p99 ms quiet", "p99 ms", "longest ms", "s per deploy", "s per rollback"]
    memory = "memory MB after two → after all"
    return [Table(f"Swaps every {swaps.EVERY_S:g} s, {swaps.RATE:g} requests/s, demo model", [*heads, memory], [row])]


_TABLES: dict[str, Callable[[dict[str, Any]], list[Table]]] = {
    "throughput": _throughput,
    "arrivals": _arrivals,
    "alone": _alone,
    "overload": _overload,
    "kills": _kills,
    "swaps": _swaps,
}


def markdown(result: dict[str, Any]) -> str:
    where, settings = result["machine"], result["settings"]
    lines = [
        "# Serving",
        "",
        "By `benchmarks/serving`:",
        "",
        f"    {result['command']}",
        "",
        (
            f"Machine: {where['cpu']}, {where['cores']} cores, {where['os']}, Python {where['python']}, CPU provider "
            f"of onnxruntime {where['libraries'].get('onnxruntime')}. The load generator runs on the same cores."
        ),
        "",
        *_setting(result),
        "",
    ]
    if settings["is_quick"]:
        lines += ["**A quick run: it shows that everything works, not how fast.**", ""]
    if settings["idle_before"] < ENOUGH_IDLE:
        lines += [f"**Others used {1 - settings['idle_before']:.0%} of the cores when it began.**", ""]
    for name, model in result["models"].items():
        lines += [f"## {name}, inputs of {model['input_bytes']:,} bytes", ""]
        for scenario in _TABLES:
            if scenario in model:
                lines += [line for table in tables(model, scenario) for line in table.markdown()]
    return "\n".join(lines)


def _setting(result: dict[str, Any]) -> list[str]:
    settings, models = result["settings"], result["models"]
    has_named = any(len(SERVERS[name].layouts) == 1 for name in result["versions"])
    but = ", but for what is named for one" if has_named else ""
    return [
        *_rounds(settings, {scenario for model in models.values() for scenario in model}),
        (
            "Every answer of every server is held against onnxruntime's own, within a thousandth of the largest logit. "
            "Latencies of arrivals count from when a request was due."
        ),
        "",
        (
            f"All batch at most {settings['max_batch']} rows and, where they wait for one another, wait at most "
            f"{settings['max_wait_ms']} ms; sessions do not spin. Each server runs in the better of two layouts{but}:"
        ),
        "",
        _line(["", "version", "onnxruntime", *models]),
        "|" + "---|" * (3 + len(models)),
        *(_line(_described(name, found, models.values())) for name, found in result["versions"].items()),
        "",
        *(
            f"onnxruntime alone, {name}: {model['throughput']['bare']['best']} for its throughput, "
            f"{model['throughput']['bare']['quickest']} for its latency.  "
            for name, model in models.items()
            if "throughput" in model
        ),
    ]


def _rounds(settings: dict[str, Any], scenarios: set[str]) -> list[str]:
    """How turns are taken, in the scenarios where all servers take them."""
    if not scenarios & {"throughput", "arrivals"}:
        return []
    bare = ratio = longer = ""
    if "throughput" in scenarios:
        bare = " and the bare loop before and after each closed loop"
        ratio = "the ratio to the bare loop beside it has its range, "
    if "arrivals" in scenarios:
        longer = (
            f" Arrivals last {arrivals.TIMES} times as long; the CPU of a request is that of the server's processes, "
            "from the least to the most of the rounds: where it is far above the median, the cores were slower."
        )
    return [
        (
            f"Rounds: {settings['rounds']} of {settings['seconds']:g} s for each number, the servers in turn{bare}; "
            f"all servers are up, and those whose turn it is not stand still. Medians of the rounds; {ratio}what "
            f"ranksmith's figure is of another's in the same round the quartiles.{longer}"
        ),
        "",
    ]


def _described(name: str, found: dict[str, str], models: Iterable[dict[str, Any]]) -> list[str]:
    package = SERVERS[name].package
    # Those of one scenario are those of the others.
    found_in = [model.get("throughput") or model.get("arrivals") or {} for model in models]
    layouts = [scenario.get("layouts", {}).get(name, "") for scenario in found_in]
    return [SERVERS[name].title, f"{package} {found[package]}", found["onnxruntime"], *layouts]


def wrong_answers(told: Any) -> int:
    """Wherever in the results they are."""
    if isinstance(told, dict):
        return sum(value if key == "wrong" else wrong_answers(value) for key, value in told.items())
    return sum(map(wrong_answers, told)) if isinstance(told, list) else 0

"""What the benchmarks share: the command line, the machine, the clock, and a table in Markdown."""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

RESULTS = Path(__file__).parent / "results"
log = logging.getLogger("benchmarks")
Key = TypeVar("Key")


def arguments(doc: str, out: str) -> argparse.Namespace:
    """--quick and --out FILE."""
    return parser(doc, out).parse_args()


def parser(doc: str, out: str) -> argparse.ArgumentParser:
    """The same, to add to; the log goes to the terminal."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / out, help="Markdown file (default: %(default)s)")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    return parser


def machine(packages: Sequence[str]) -> str:
    """Cores, threads and versions, one line."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    parts = [processor(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} torch threads"]
    return ", ".join([*parts, f"Python {platform.python_version()}", *versions])


def installed_packages(packages: Sequence[str]) -> list[str]:
    """Those that are there, by the names under which they are distributed."""
    there = {distribution.name.lower() for distribution in importlib.metadata.distributions()}
    return [name for name in packages if name in there]


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def command() -> str:
    """The command line that is running."""
    module = Path(sys.argv[0]).stem
    return " ".join(["python -m", f"benchmarks.{module}", *sys.argv[1:]])


def round_robin(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each run; they take turns, so that what else the machine does meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def turns(
    runs: Mapping[Key, Callable[[], object]],
    rounds: int,
    patience: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, float]:
    """Median seconds of each run, in turns as `round_robin`, in another order every round.

    A short run is repeated within its turn, so that it finds the caches as it left them; a run that has had three
    turns and `patience` seconds, or one turn and twice that, is left out of the rounds that remain. clock: of seconds;
    `time.process_time` does not count what others use of a machine.
    """
    order, seconds = random.Random(0), {name: [] for name in runs}
    for done in range(rounds):
        for name in order.sample(list(runs), len(runs)):
            spent = sum(seconds[name])
            if spent < patience or (done < 3 and spent < 2 * patience):
                seconds[name] += turn(runs[name], clock=clock)
    return {name: median(values) for name, values in seconds.items()}


def turn(
    run: Callable[[], object], least: float = 0.01, most: int = 20, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of one run, or of several until `least` have passed."""
    seconds: list[float] = []
    while not seconds or (sum(seconds) < least and len(seconds) < most):
        start = clock()
        run()
        seconds.append(clock() - start)
    return seconds


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_json(path: Path, records: Any) -> None:
    """The raw numbers, beside the report."""
    path = path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def write(path: Path, *parts: str) -> None:
    """The report, to the log and to the file."""
    text = "\n\n".join(parts) + "\n"
    log.info("%s", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

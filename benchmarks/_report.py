"""What the benchmarks share: the command line, the machine, the clock, and a table in Markdown."""

import argparse
import importlib.metadata
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

RESULTS = Path(__file__).parent / "results"
log = logging.getLogger("benchmarks")


def arguments(doc: str, out: str) -> argparse.Namespace:
    """--quick and --out FILE."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / out, help="Markdown file (default: %(default)s)")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    return parser.parse_args()


def machine(packages: Sequence[str]) -> str:
    """Cores, threads and versions, one line."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    parts = [processor(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} torch threads"]
    return ", ".join([*parts, f"Python {platform.python_version()}", *versions])


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


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write(path: Path, *parts: str) -> None:
    """The report, to the log and to the file."""
    text = "\n\n".join(parts) + "\n"
    log.info("%s", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

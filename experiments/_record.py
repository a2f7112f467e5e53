"""The folder of a run: which settings it belongs to, how it is run there, and the record it leaves."""

import dataclasses
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from rich import get_console
from rich.logging import RichHandler
from rich.markdown import Markdown

log = logging.getLogger(__name__)

Record = dict[str, Any]
Report = Callable[[Record, Path], str]

PACKAGES = ("icnn", "torch", "numpy", "scipy", "scikit-learn", "lightning-fabric", "optuna")
ELSEWHERE = ("out", "path", "seeds")  # where things lie does not change what comes out; seeds are said by seed


class ChangedConfigError(Exception):
    """The folder holds a run with other settings."""


def conducted(config: Any, run: Callable[[Any], None], *refusals: type[Exception]) -> int:
    """Run an experiment in the folder config.out; the exit status of its command.

    0 when done; 1 when refused, by the folder or by one of these errors; 130 when interrupted. Of several processes
    the first one writes.
    """
    torch.set_num_threads(1)  # the nets are small: more threads would mostly wait for each other
    start_logging()
    try:
        claim_folder(config.out, config)
        with logged_to(config.out / "log.txt") if rank_zero_only.rank == 0 else nullcontext():
            run(config)
    except (ChangedConfigError, *refusals) as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.warning("interrupted: the same command continues after the last whole epoch")
        return 130
    return 0


def start_logging() -> None:
    """Show what is logged; of several processes the first one shows all, the others warnings."""
    level = logging.INFO if rank_zero_only.rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(show_path=False)])


def claim_folder(out: Path, config: Any) -> None:
    """Make ``out`` the folder of the run with this config (a dataclass), or continue the run that it holds.

    Raises ChangedConfigError, naming what differs, if the folder holds a run with another config.
    """
    file, wanted = out / "config.json", settings(config)
    if file.exists():
        held = json.loads(file.read_text())
        changed = [key for key in sorted(held | wanted) if held.get(key) != wanted.get(key)]
        if changed:
            differences = "; ".join(f"{key}: {held.get(key)} there, {wanted.get(key)} asked for" for key in changed)
            raise ChangedConfigError(f"{out} holds a run with another config ({differences}): choose another --out")
    write_json(file, wanted)


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """Append what is logged meanwhile to this file."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def settings(config: Any) -> dict[str, Any]:
    """The config as JSON sees it, without the places where things lie."""
    fields = {key: value for key, value in dataclasses.asdict(config).items() if key not in ELSEWHERE}
    return json.loads(json.dumps(fields))


@rank_zero_only
def write_json(file: Path, content: Any) -> None:
    """Write beside, then rename, so that the file is never half written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(beside, file)


def write_record(
    file: Path,
    name: str,
    config: Any,
    seed: Sequence[int],
    data: dict,
    metrics: dict,
    seconds: float,
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
) -> Record:
    """Write what one run of an experiment was, and what it found; returns the record.

    curves: what figures need of the epochs of each fit.
    """
    record = {
        "name": name,
        "config": settings(config),
        "seed": list(seed),
        "versions": versions(),
        "data": data,
        "metrics": metrics,
        "seconds": round(seconds, 1),
    } | ({} if curves is None else {"curves": curves})
    write_json(file, record)
    return record


@rank_zero_only
def publish(report: Report, record: Record, folder: Path) -> None:
    """Leave the tables and figures of this record in the folder, and show the tables.

    report: draws the figures of a record into a folder and returns its tables, as the module of every experiment has
    it: they come from the record alone, so that it suffices to draw them anew.
    """
    text = report(record, folder)
    (folder / "results.md").write_text(text + "\n")
    get_console().print(Markdown(text))
    log.info("results are in %s", folder)


def file_name(row: str) -> str:
    """The name of a row of a table, as that of a file."""
    return row.replace(",", "").replace(" ", "-")


def versions() -> dict[str, str]:
    """Python and the packages that the numbers depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

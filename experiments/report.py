"""Turn the records of runs into their tables and figures, which come from the record alone.

Each folder has a record.json. The module of its experiment has the function report(record, folder), which also the run
ends with. Pictures of images and of points in the plane are drawn by the run, since a record holds numbers; so are
curves where the record is older than they are.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import tyro

from experiments._record import Record, Report, publish, start_logging

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Turn the records of runs into their tables and figures."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs; all of docs/results by default."""


class NoRecordError(Exception):
    """There is nothing to report, or nobody to do it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Report every record; the exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.report")
    start_logging()
    try:
        for folder in config.folders or _folders(Path("docs/results")):
            record = _record(folder)
            publish(_report(record), record, folder)
    except NoRecordError as error:
        log.error("%s", error)
        return 1
    return 0


def _folders(root: Path) -> list[Path]:
    found = sorted(file.parent for file in root.glob("*/record.json"))
    if not found:
        raise NoRecordError(f"no record.json in the folders of {root.absolute()}: name the folders of your runs")
    return found


def _record(folder: Path) -> Record:
    file = folder / "record.json"
    if not file.exists():
        raise NoRecordError(f"no record.json in {folder}: expected the folder of a run that has ended")
    return json.loads(file.read_text())


def _report(record: Record) -> Report:
    """The report of the experiment that the record names."""
    name = f"experiments.{record['name']}"
    if find_spec(name) is None:
        raise NoRecordError(f"there is no experiment {record['name']!r}, which a record names")
    return import_module(name).report


if __name__ == "__main__":
    sys.exit(main())

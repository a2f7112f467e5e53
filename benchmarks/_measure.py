"""One cell after another: what every contender's answer is worth, and its time."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf, nan
from typing import NamedTuple

from ._contender import Contender
from ._problems import Case, draw, gradient_error, residual
from ._report import turns

RIGHT = 1e-6
GROWTH = {"dense": (2.5, 3), "box": (25, 1), "simplex": (25, 1)}  # n predicts up to which multiple, by which power
SKIPPED = "skipped"

Maker = Callable[[Case], Contender]


class Cell(NamedTuple):
    family: str
    n: int
    m: int
    q: int
    batch: int


@dataclass(frozen=True)
class Measured:
    """One contender in one cell; seconds, nan where it was not run."""

    cell: Cell
    name: str
    forward: float = nan
    both: float = nan
    residual: float = nan
    gradient: float = nan
    note: str = ""

    @property
    def right(self) -> bool:
        return self.residual <= RIGHT and self.gradient <= RIGHT


def measure(cell: Cell, makers: Mapping[str, Maker], before: Iterable[Measured], cap: float) -> list[Measured]:
    """Every contender in the cell, in turns; one whose run is predicted to take more than `cap` seconds is skipped."""
    case = draw(*cell)
    found: list[Measured] = []
    ready: dict[str, Contender] = {}
    with warnings.catch_warnings(action="ignore"):
        for name, make in makers.items():
            expected = predicted(name, cell, before)
            if expected > cap:
                found.append(Measured(cell, name, note=f"{SKIPPED}: {expected:.0f} s a run expected"))
                continue
            try:
                ready[name] = make(case)
                found.append(judged(cell, name, case, ready[name]))
            except Exception as error:  # noqa: BLE001  (whatever a library raises belongs into its row)
                ready.pop(name, None)
                found.append(Measured(cell, name, note=f"{type(error).__name__}: {first_line(error)}"))
        runs = {(name, part): getattr(each, part) for name, each in ready.items() for part in ("forward", "both")}
        seconds = turns(runs, rounds=9, patience=0.5)
    return [timed(m, seconds) for m in found]


def judged(cell: Cell, name: str, case: Case, contender: Contender) -> Measured:
    """What the answer is worth; also warms up."""
    point, gradients = contender.answer()
    contender.forward()
    return Measured(cell, name, residual=residual(case, point), gradient=gradient_error(case, gradients))


def timed(m: Measured, seconds: Mapping[tuple[str, str], float]) -> Measured:
    if (m.name, "both") not in seconds:
        return m
    return Measured(m.cell, m.name, seconds[m.name, "forward"], seconds[m.name, "both"], m.residual, m.gradient)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:100]


def predicted(name: str, cell: Cell, before: Iterable[Measured]) -> float:
    """Seconds of a run, from the last similar cell measured; 0 without one.

    A contender that was skipped there is skipped here as well.
    """
    factor, power = GROWTH[cell.family]
    for m in reversed(list(before)):
        near = m.cell.n <= cell.n <= factor * m.cell.n and m.cell.batch <= cell.batch
        if m.name == name and m.cell.family == cell.family and near and (m.both > 0 or m.note.startswith(SKIPPED)):
            return inf if m.note else m.both * cell.batch / m.cell.batch * (cell.n / m.cell.n) ** power
    return 0.0

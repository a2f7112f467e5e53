"""The code in the docs runs, shows what the text around it says, and the reference has every public name."""

import importlib.util
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import icnn

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    """The code of a page; what is marked `python peer` needs another library, and is not run."""
    return re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)


@cache
def printed(page: str) -> list[list[str]]:
    """The lines that each block of a page prints, all run in one namespace."""
    names: dict[str, object] = {}
    lines = []
    for block in blocks(page):
        with redirect_stdout(StringIO()) as out:
            exec(compile(block, page, "exec"), names)
        lines.append(out.getvalue().splitlines())
    return lines


def promised(page: str) -> list[str]:
    """What a page says that it prints: beside a print, and in the block after "prints"."""
    found = re.finditer(r"^ *print\(.*\)  # (.+)$|^prints\n\n((?: {4}.*\n)+)", text(page), re.MULTILINE)
    return [line.strip() for match in found for line in (match[1] or match[2]).splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page: str) -> None:
    lines = iter(line for block in printed(page) for line in block)
    assert [line for line in promised(page) if line not in lines] == []  # `in` moves on: their order counts


def test_a_network_with_roles_is_normalised_and_certified() -> None:
    *table, verdict = printed("networks.md")[0]
    assert "dead weights" in table[0]
    assert verdict == "Verdict(CONVEX)"


def test_certificates_and_refutations() -> None:
    convex, constants, minimum, unknown, violation = printed("networks.md")[1]
    assert convex == "Verdict(CONVEX)"
    assert constants.startswith("CurvatureBounds")
    assert "1 of 1 exact" in minimum
    assert "layers.1.path" in unknown
    assert violation.startswith("Violation")


def reference() -> list[str]:
    """The names that the pages of the API document."""
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.md")))
    names = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", pages, re.MULTILINE)
    return [name if name.startswith("icnn.") else f"icnn.{name}" for name in names]


def documented() -> Iterator[tuple[str, Any]]:
    """What stands in the reference: each name, and what it has that is public."""
    for name in reference():
        found = attrgetter(name.removeprefix("icnn."))(icnn)
        yield name, found
        own = found.__name__ if inspect.ismodule(found) else ""  # not what a module imports from elsewhere
        members = vars(found) if inspect.isclass(found) or own else {}
        public = {key: value for key, value in members.items() if not key.startswith("_")}
        yield from ((f"{name}.{k}", v) for k, v in public.items() if getattr(v, "__module__", own).startswith(own))


def test_every_public_name_is_documented() -> None:
    assert [name for name in icnn.__all__ if not getattr(getattr(icnn, name), "__doc__", None)] == []
    assert {f"icnn.{name}" for name in icnn.__all__} - set(reference()) == set()


def test_no_name_stands_twice_in_the_reference() -> None:
    assert [name for name, times in Counter(reference()).items() if times > 1] == []


@pytest.fixture(scope="module")
def house() -> ModuleType:
    """docs/_docstrings.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("_docstrings", DOCS / "_docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(lines: list[str]) -> Counter[str]:
    return Counter(re.findall(r"\w+", " ".join(lines).replace("\\_", "_")))


def test_the_reference_leaves_out_no_word_of_a_docstring(house: ModuleType) -> None:
    lost = {}
    for name, value in documented():
        lines = (inspect.getdoc(value) or "").splitlines()
        missing = words(lines) - words(house.google(lines, house.parameters(value)))
        lost |= {name: missing} if missing else {}
    assert lost == {}


def test_a_docstring_of_the_house_becomes_sections(house: ModuleType) -> None:
    def f(y_: object, size: int) -> None:
        """A function of (*batch,) and |y_|, see `project_`.

            f(y) = max_i y_i
              + |y|*

        It has no x: that is all.

        Or nearly
        all.

        y_: (*batch, n); if not,
            an error. size: n.
        Returns (*batch,).
        Raises TypeError, ValueError as g; SolverError for the rest.
        Source: Author, Title.
        """

    assert house.google((inspect.getdoc(f) or "").splitlines(), house.parameters(f)) == [
        "A function of (\\*batch,) and \\|y\\_\\|, see `project_`.",
        "",
        "::",
        "",
        "    f(y) = max_i y_i",
        "      + |y|*",
        "",
        "It has no x: that is all.",
        "",
        "Or nearly all.",
        "",
        "Args:",
        "    y\\_: (\\*batch, n); if not, an error.",
        "    size: n.",
        "",
        "Returns:",
        "    (\\*batch,).",
        "",
        "Raises:",
        "    TypeError, ValueError: as g",
        "    SolverError: for the rest.",
        "",
        "Source:",
        "    Author, Title.",
        "",
    ]

"""The code in the docs runs, and shows what the text around it says."""

import re
from pathlib import Path

import pytest

import icnn

DOCS = Path(__file__).parents[1] / "docs"


def run(page: str, number: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a block of code of a page prints."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(blocks[number], page, "exec"), {})
    return capsys.readouterr().out.splitlines()


def test_a_network_with_roles_is_normalised_and_certified(capsys: pytest.CaptureFixture[str]) -> None:
    *table, verdict = run("networks.md", 0, capsys)
    assert "dead weights" in table[0]
    assert verdict == "Verdict(CONVEX)"


def test_certificates_and_refutations(capsys: pytest.CaptureFixture[str]) -> None:
    convex, constants, minimum, unknown, violation = run("networks.md", 1, capsys)
    assert convex == "Verdict(CONVEX)"
    assert constants.startswith("CurvatureBounds")
    assert "1 of 1 exact" in minimum
    assert "layers.1.path" in unknown
    assert violation.startswith("Violation")


def test_every_public_name_is_documented() -> None:
    assert [name for name in icnn.__all__ if not getattr(getattr(icnn, name), "__doc__", None)] == []

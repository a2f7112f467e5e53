"""The README tells the truth: its code runs, its commands are the ones that are run."""

import re
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def execute(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "README.md", "exec"), names)
    return names


def test_qp_layer_projects_onto_the_simplex() -> None:
    source = blocks("python")[0]
    assert len([line for line in source.splitlines() if line]) == 6
    names = execute(source)
    x, points = names["x"].detach(), names["points"].detach()
    threshold = (points - x)[x > 1e-6]  # on its support the projection subtracts one number per row
    rows = (x > 1e-6).nonzero()[:, 0]
    for row in range(len(x)):
        assert threshold[rows == row].std(correction=0) < 1e-7
    torch.testing.assert_close(x.sum(-1), torch.ones(len(x), dtype=x.dtype), rtol=0, atol=1e-8)
    assert x.min() > -1e-8


def test_qp_layer_gradient_is_that_of_the_projection() -> None:
    names = execute(blocks("python")[0])
    x, points = names["x"].detach(), names["points"]
    support = (x > 1e-6).to(x.dtype)
    expected = 2 * support * (x - (support * x).sum(-1, keepdim=True) / support.sum(-1, keepdim=True))
    torch.testing.assert_close(points.grad, expected, rtol=0, atol=1e-6)


def test_training_by_argmin_differentiation_learns_the_exclusive_or() -> None:
    source = blocks("python")[1]
    assert len(source.splitlines()) <= 22
    names = execute(source)
    assert names["losses"][-1] < 0.5 * names["losses"][0]
    right = (names["y"].detach() > 0.5) == names["labels"].bool()
    assert right[:, 1].double().mean() > 0.9


def test_commands_stand_at_the_top_and_use_the_constraints() -> None:
    commands = blocks("bash")
    assert len(commands) == 2
    assert README.index("```python") > README.index(commands[1])
    for command, job in zip(commands, ("experiments.completion", "pytest"), strict=True):
        assert job in command
        assert "-c constraints.txt" in command
        assert len(command.splitlines()) == 1


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert re.search(r"<!-- test command -->\n```bash\n.*pytest.*\n```", README)
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")

"""Import directions: experiments, benchmarks, tests -> icnn -> icnn.solvers -> torch. Never upward."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NATIVE = {"piqp", "clarabel", "highspy", "qdldl"}
FOUNDATION = {"torch", "numpy", "scipy", "jaxtyping", "numba", "llvmlite"} | NATIVE | sys.stdlib_module_names
OUTSIDE = {"experiments", "benchmarks", "tests", "solvers"}
HEAVY = ("cvxpy", "matplotlib", "gymnasium", "sklearn", "numba", *NATIVE)


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute dotted names that a module of `package` imports; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def is_public(name: str) -> bool:
    """icnn.Name, icnn.<subpackage>.Name, or a module of names such as icnn.losses; never anything private.

    Subpackages are reached through their own namespace: icnn.solvers.kkt.factorise is an internal.
    """
    parts = name.split(".")
    return len(parts) <= 3 and not any(part.startswith("_") for part in parts)


def is_internal_module(name: str) -> bool:
    """A module file inside a subpackage of icnn, or a name in one."""
    parts = name.split(".")
    return len(parts) >= 3 and (ROOT / "icnn" / parts[1] / f"{parts[2]}.py").exists()


def violations(source: str, package: str) -> list[str]:
    """What a module with this source may not import when it lives in `package`."""
    names = [name for name in imported(ast.parse(source), package) if name != "__future__"]
    if below(package, "icnn.solvers"):
        return [n for n in names if n.split(".")[0] not in FOUNDATION and not below(n, "icnn.solvers")]
    if below(package, "icnn"):
        return [n for n in names if n.split(".")[0] in OUTSIDE]
    ours = [n for n in names if below(n, "icnn")]
    return [n for n in ours if not is_public(n) or is_internal_module(n)] + [n for n in names if below(n, "solvers")]


def modules() -> list[tuple[Path, str]]:
    """Every module outside the tests, with the package that its relative imports start from."""
    roots = {
        "icnn": "icnn",
        "solvers": "icnn.solvers",
        "experiments": "experiments",
        "benchmarks": "benchmarks",
    }
    found = []
    for folder, package in roots.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if folder == "icnn" and path.is_relative_to(ROOT / "icnn" / "solvers"):
                continue
            inner = path.parent.relative_to(ROOT / folder).parts
            found.append((path, ".".join([package, *inner])))
    return found


@pytest.mark.parametrize(("path", "package"), modules(), ids=lambda v: str(v).removeprefix(f"{ROOT}/"))
def test_imports_point_downward(path: Path, package: str) -> None:
    assert violations(path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("from icnn.networks import FICNN", "icnn.solvers"),
        ("from ..networks import FICNN", "icnn.solvers"),
        ("def late():\n    import cvxpy", "icnn.solvers"),
        ("from experiments import completion", "icnn.networks"),
        ("import solvers.kkt", "icnn"),
        ("from icnn.solvers.kkt import factorise", "experiments"),
        ("from icnn.solvers import kkt", "benchmarks"),
        ("import icnn.solvers.kkt", "benchmarks"),
        ("from icnn import _private", "experiments"),
        ("from solvers import api", "experiments"),
    ],
)
def test_the_checker_finds_an_upward_import(source: str, package: str) -> None:
    assert violations(source, package)


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("import math\nimport torch\nfrom .problem import QP", "icnn.solvers"),
        ("from ..solvers import solve", "icnn.layers"),
        ("import icnn\nfrom icnn import solve\nfrom icnn.networks import FICNN", "experiments"),
    ],
)
def test_the_checker_accepts_a_downward_import(source: str, package: str) -> None:
    assert violations(source, package) == []


def python(*lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_importing_icnn_imports_nothing_heavy() -> None:
    done = python("import sys, icnn", f"print([name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_importing_solvers_as_a_top_level_package_is_refused() -> None:
    done = python("import solvers")
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert "icnn.solvers" in done.stderr


def test_every_package_on_disk_is_packaged() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        config = tomllib.load(file)["tool"]["setuptools"]
    on_disk = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "icnn").rglob("__init__.py")}
    solvers = {
        ".".join(("icnn", *init.parent.relative_to(ROOT).parts)) for init in (ROOT / "solvers").rglob("__init__.py")
    }
    assert set(config["packages"]) == on_disk | solvers
    assert (ROOT / "icnn" / "solvers").is_symlink()
    assert (ROOT / "icnn" / "solvers").readlink() == Path("../solvers")

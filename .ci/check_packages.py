"""Is what was built whole: `python check_packages.py DIST` with the wheel installed in this environment."""

import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import icnn.solvers


def main(dist: Path) -> None:
    """Check where icnn.solvers came from, and that each module is in wheel and sdist exactly once."""
    origin = Path(icnn.solvers.__file__).resolve()
    assert origin.is_relative_to(Path(sys.prefix).resolve()), f"icnn.solvers came from {origin}"
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    solvers = Counter(name.removeprefix("icnn/solvers/") for name in names if name.startswith("icnn/solvers/"))
    assert {"api.py", "kernels/calls.py", "backends/native.py"} <= set(solvers), f"the wheel lacks modules: {solvers}"
    assert set(solvers.values()) == {1}, f"the wheel holds modules twice: {solvers}"
    assert "icnn/py.typed" in names, "the wheel lacks icnn/py.typed"
    assert {name.split("/")[0] for name in names} == {"icnn", wheel.name.split("-py3")[0] + ".dist-info"}
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    missing = {f"solvers/{name}" for name in solvers} - sources
    assert not missing, f"the sdist lacks {missing}"
    assert not any(name.startswith("icnn/solvers") for name in sources), "the sdist holds solvers/ twice"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

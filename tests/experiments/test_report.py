"""Tables and figures come from records alone, and the kept results are those of their records."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.labels import LEARNERS
from experiments.report import main

KEPT = sorted(file.parent for file in (Path(__file__).parents[2] / "docs" / "results").glob("*/record.json"))


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_the_kept_tables_are_those_of_their_records(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "record.json", tmp_path)
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "results.md").read_text() == (folder / "results.md").read_text()


def test_curves_are_drawn_from_the_record(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(record()))
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "| max-margin | 60.0 ± 14.1 | 50.0 |" in (tmp_path / "results.md").read_text()


def record() -> dict:
    found = {"exact match": [50.0, 70.0], "F1": [80.0, 90.0], "seconds": [1.0, 2.0], "step length": [0.1]}
    epochs = [{"validation": 0.5, "seconds": 1.0}, {"validation": 0.4, "seconds": 1.0}]
    return {
        "name": "labels",
        "data": {"test": 10},
        "metrics": dict.fromkeys(LEARNERS, found),
        "curves": dict.fromkeys(LEARNERS, epochs),
    }


def test_all_kept_results_are_reported_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 1
    kept = tmp_path / "docs" / "results"
    for name in ("one", "two"):
        (kept / name).mkdir(parents=True)
        (kept / name / "record.json").write_text(json.dumps(record()))
    assert main([]) == 0
    assert {file.parent.name for file in kept.glob("*/results.md")} == {"one", "two"}


def test_what_cannot_be_reported_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path)]) == 1
    assert f"no record.json in {tmp_path}" in caplog.text
    (tmp_path / "record.json").write_text(json.dumps({**record(), "name": "nothing"}))
    assert main([str(tmp_path)]) == 1
    assert "there is no experiment 'nothing'" in caplog.text

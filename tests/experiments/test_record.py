import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from experiments._record import ChangedConfigError, claim_folder, write_record
from experiments._table import error_table, paired, spread


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1


@dataclass(frozen=True)
class Settings:
    out: Path = Path("there")
    path: Path | None = None
    seed: tuple[int, ...] = (0, 1)
    recipe: Inner = Inner()


def test_the_same_config_may_continue_wherever_its_data_lies(tmp_path: Path) -> None:
    claim_folder(tmp_path / "run", Settings())
    claim_folder(tmp_path / "run", Settings(out=Path("moved"), path=Path("elsewhere")))


def test_a_changed_config_is_refused_and_named(tmp_path: Path) -> None:
    claim_folder(tmp_path, Settings())
    with pytest.raises(ChangedConfigError, match=r"recipe: .*0\.1.* there, .*0\.2.* asked for.*--out"):
        claim_folder(tmp_path, replace(Settings(), recipe=Inner(lr=0.2)))
    claim_folder(tmp_path, Settings())  # and the folder is as before


def test_record_keys(tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", "name", Settings(), (0, 1), {"name": "none"}, {"mse": 1.0}, 2.34)
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds"]
    assert record["config"] == {"seed": [0, 1], "recipe": {"lr": 0.1}}
    assert record["seconds"] == 2.3
    assert record["versions"].keys() >= {"python", "torch", "icnn"}
    assert not list(tmp_path.glob("*.new"))


def test_spread_over_pictures_groups_and_seeds() -> None:
    found = spread(np.array([[1.0, 3.0, 5.0], [3.0, 9.0, 9.0]]), np.array([4, 4, 7]))
    assert found["mse"] == 5
    assert found["per_seed"] == [3, 7]
    assert found["sd_seeds"] == pytest.approx(8**0.5)
    assert found["sd_pictures"] == pytest.approx(np.std([2, 6, 7], ddof=1))
    assert found["sd_groups"] == pytest.approx(4.5**0.5)  # of 4 and 7
    alone = spread(np.array([[1.0, 3.0]]), np.array([0, 0]))
    assert alone["sd_seeds"] is None
    assert alone["sd_groups"] is None


def test_paired_difference() -> None:
    found = paired(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 3.0]]))
    assert found["difference"] == -1
    assert found["standard_error"] == pytest.approx(3**-0.5)
    assert found["share_better"] == pytest.approx(2 / 3)
    assert found["sd_seeds"] is None


def test_seeds_are_paired_too() -> None:
    ours, other = np.array([[1.0, 2.0], [5.0, 6.0]]), np.array([[2.0, 3.0], [7.0, 8.0]])
    assert paired(ours, other)["sd_seeds"] == pytest.approx(0.5**0.5)  # of -1 and -2
    assert paired(ours, other)["standard_error"] == 0
    assert paired(ours, other[:1])["difference"] == 1  # a method without seeds


def test_the_table_has_the_worst_method_first() -> None:
    errors = {"good": [[1.0, 3.0]], "bad": [[5.0, 7.0]]}
    spreads = {name: spread(np.array(error), np.array([0, 1])) for name, error in errors.items()}
    table = error_table(spreads, {"good": [20.0]}, "people")
    assert "± over people" in table
    assert table.splitlines()[2:] == [
        "| bad | 6.0 | 1.4 | 1.4 | – | – | – |",
        "| good | 2.0 | 1.4 | 1.4 | – | 1 | 20 |",
    ]

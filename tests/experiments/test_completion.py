import json
from pathlib import Path

import numpy as np
import pytest
import torch

import icnn
from experiments import completion
from experiments._completer import (
    DESCENDED,
    ICNN,
    NO_CONVEXITY,
    NO_COUPLING,
    WAYS,
    Completer,
    Convolutional,
    Way,
    completions,
    final_error,
    squared_errors,
)
from experiments._completion_energies import Plain, Unet
from experiments._descent import descended
from experiments._pictures import Pictures, digits_pictures, halves
from experiments.completion import DEFAULTS, main, parse

SMALL = ("plain", "--convs", "4", "3", "2", "--dense", "8")
ROWS = ("--rows", *WAYS, "--comparator-seeds", "1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("completion")
    assert main(["--quick", "--seed", "0", "1", "--out", str(out), *ROWS, *SMALL]) == 0
    return out


def small_completer(way: Way = WAYS[ICNN]) -> tuple[Completer, Pictures]:
    train, net = digits_pictures()[:60], Plain(convs=((4, 3, 2),), dense=(8,))
    return Completer(net, train.images, way), train


def test_the_record_has_the_promised_keys_and_every_method(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds", "curves"]
    assert record["seed"] == [0, 1]
    assert record["data"] == {
        "name": "digits",
        "fitted": 100,
        "watched": 50,
        "scored": 50,
        "scored_part": "test",
    }
    methods = {"mean left half", "mirrored right half", "1-NN", "ridge", "RBF kernel ridge"}
    metrics = record["metrics"]
    assert metrics["mse"].keys() == methods | WAYS.keys()
    assert {name: len(metrics["mse"][name]["per_seed"]) for name in WAYS} == {
        name: 2 if name in (ICNN, NO_COUPLING) else 1 for name in WAYS
    }
    iterations = {name: len(trace) for name, trace in metrics["mse_after_iteration"].items()}
    assert iterations == {name: way.iterations for name, way in WAYS.items() if way.iterations}


def test_differences_are_of_the_same_seeds(finished: Path) -> None:
    metrics = json.loads((finished / "record.json").read_text())["metrics"]
    found = {(pair["of"], pair["to"]): pair for pair in metrics["differences"]}
    assert {pair for pair in found if pair[0] != ICNN} == {(DESCENDED, NO_CONVEXITY)}
    assert {pair[1] for pair in found if pair[0] == ICNN} == metrics["mse"].keys() - {ICNN}
    for (of, to), pair in found.items():
        ours, other = (metrics["mse"][name]["per_seed"] for name in (of, to))
        seeds = len(other) if to in WAYS else len(ours)
        assert pair["seeds"] == seeds
        assert pair["difference"] == pytest.approx(np.mean(ours[:seeds]) - np.mean(other), abs=1e-6)


def test_the_last_iteration_is_the_result(finished: Path) -> None:
    metrics = json.loads((finished / "record.json").read_text())["metrics"]
    for name, trace in metrics["mse_after_iteration"].items():
        assert trace[-1] == pytest.approx(metrics["mse"][name]["mse"], rel=1e-6)


def test_table_and_pictures_are_left(finished: Path) -> None:
    assert "| RBF kernel ridge |" in (finished / "results.md").read_text()
    assert "| bundle entropy, 30 |" in (finished / "results.md").read_text()
    for picture in ("loss.png", "completions.png", "iterations.png", "gaps.png"):
        assert (finished / picture).read_bytes().startswith(b"\x89PNG")


def test_the_same_command_again_fits_nothing_and_finds_the_same(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((finished / "record.json").read_text())
    monkeypatch.setattr(Completer, "loss", None)  # nobody may need it
    assert main(["--quick", "--seed", "0", "1", "--out", str(finished), *ROWS, *SMALL]) == 0
    assert json.loads((finished / "record.json").read_text())["metrics"] == before["metrics"]


def test_another_config_in_the_same_folder_is_refused(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--quick", "--seed", "0", "1", "--out", str(finished), "--lr", "0.5", *ROWS, *SMALL]) == 1
    assert "another config (recipe: " in caplog.text
    assert "choose another --out" in caplog.text


def test_missing_data_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["--data", "olivetti", "--path", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "no olivetti.npz in" in caplog.text


def test_an_interrupt_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Completer, "loss", interrupted)
    assert main(["--quick", "--out", str(tmp_path), *SMALL]) == 130
    assert "the same command continues" in caplog.text


def test_defaults_depend_on_the_data_and_flags_override_them() -> None:
    assert parse([]) == DEFAULTS["digits"]
    assert parse(["--data", "olivetti"]) == DEFAULTS["olivetti"]
    assert parse(["--epochs", "3", "--data", "olivetti"]).recipe.epochs == 3
    assert parse(["--quick", "--epochs", "3"]).recipe.epochs == 3
    assert parse(["--quick"]).recipe.epochs == 2
    assert parse(["--data", "olivetti", "plain"]).net == Plain()
    assert parse([]).rows == (ICNN, NO_COUPLING)
    assert parse(["--data", "olivetti"]).rows == tuple(WAYS)


@pytest.mark.parametrize("rows", [(), ("ICNN", "ICNN without coupling")])
def test_unknown_rows_and_none_at_all_are_refused(rows: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--rows", *rows])
    assert "expected one or more of" in " ".join("".join(capsys.readouterr()).split())


def test_patience_without_a_fold_to_watch_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    faces = ["--data", "olivetti", "--patience", "3"]
    with pytest.raises(SystemExit):
        parse(faces)
    assert "--validate" in "".join(capsys.readouterr())
    assert parse([*faces, "--validate", "0"]).recipe.patience == 3


def test_a_search_chooses_by_the_validation_pictures_and_is_kept(tmp_path: Path) -> None:
    assert main(["--quick", "--rows", ICNN, "--search", "2", "--out", str(tmp_path), *SMALL]) == 0
    kept = json.loads((tmp_path / "search" / "ICNN" / "search.json").read_text())
    record = json.loads((tmp_path / "record.json").read_text())
    best = min(kept["trials"], key=lambda trial: trial["loss"])
    assert len(kept["trials"]) == 2
    assert record["data"]["searched"] == {"ICNN": best["settings"]}
    assert record["curves"]["ICNN"][-1]["validation"] == pytest.approx(best["loss"], rel=1e-5)


def test_completions_are_the_minimisers_of_each_iteration() -> None:
    model, train = small_completer()
    images = train.images[:7]
    found = completions(model, images, iterations=5, chunk=3)
    assert found.shape == (5, 7, 1, 8, 4)
    with torch.no_grad():
        last = model(halves(images)[0])
    torch.testing.assert_close(found[-1], last)
    assert final_error(model, images) == pytest.approx(squared_errors(last, images).mean().item())


def test_without_coupling_one_iteration_is_enough_and_a_sigmoid_regression() -> None:
    model, train = small_completer(WAYS[NO_COUPLING])
    found = completions(model, train.images[:7], iterations=5)
    torch.testing.assert_close(found[0], found[-1])
    x, y = (half[:7] for half in halves(train.images))
    y = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.energy(x, y).sum(), y)
    torch.testing.assert_close(found[-1], torch.sigmoid(-slope), atol=1e-5, rtol=1e-5)


def test_the_energy_is_convex_in_the_unknown_half() -> None:
    model, train = small_completer()
    x, y = halves(train.images[:40])
    middle = model.energy(x[:20], (y[:20] + y[20:]) / 2)
    ends = (model.energy(x[:20], y[:20]) + model.energy(x[:20], y[20:])) / 2
    assert (middle <= ends + 1e-5).all()


def steps_of_descent(descent: icnn.Descent) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The points that both programs come to from the mean half, and the slope of the same loss in all weights."""
    model, train = small_completer()
    f, x = model.energy.double(), halves(train.images[:7])[0].double()
    start = 0.1 + 0.8 * f.y_mean
    by_argmin = icnn.argmin(f, x, regularizer="entropy", method=descent, max_iter=7, gradient="unrolled", start=start).y
    found = []
    for y in (descended(f, x, start, descent, 7), by_argmin):
        slopes = torch.autograd.grad(y.square().sum(), list(f.parameters()), allow_unused=True)
        found.append(
            (y.detach(), torch.cat([slope.flatten() for slope in slopes if slope is not None and slope.any()]))
        )
    return found


@pytest.mark.parametrize(
    "descent",
    [
        icnn.Descent("gradient"),
        icnn.Descent("momentum"),
        icnn.Descent("gradient", lr=0.5),
        icnn.Descent("momentum", lr=0.3, beta=0.3),
    ],
    ids=repr,
)
def test_descent_makes_the_steps_of_argmin_and_has_their_derivative(descent: icnn.Descent) -> None:
    (y, slope), (expected_y, expected_slope) = steps_of_descent(descent)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(slope, expected_slope)


def test_descent_on_a_smooth_energy_has_the_derivative_of_its_steps() -> None:
    f = icnn.PICNN(3, 4, (5,), activation="softplus").double()
    x, start = torch.rand(6, 3).double(), torch.full((4,), 0.5).double()
    descent = icnn.Descent("momentum", lr=0.5, beta=0.3)
    assert torch.autograd.gradcheck(lambda x: descended(f, x, start, descent, 5), x.requires_grad_())


def test_descent_of_another_kind_is_refused() -> None:
    model, train = small_completer()
    with pytest.raises(ValueError, match='expected the rule "gradient" or "momentum"'):
        descended(model.energy, halves(train.images)[0], model.energy.y_mean, icnn.Descent("adam", lr=0.1), 3)


def fitted_energy(row: str, out: Path, positivity: str = "project") -> icnn.ConvexNetwork:
    steps = ["--epochs", "3", "--batch", "20", "--ema", "0", "--lr", "0.3"]
    config = parse(["--quick", *steps, "--out", str(out), *SMALL, "--positivity", positivity])
    model = completion._fit(config, completion._split(config), row, seed=0).model
    assert isinstance(model, Completer)
    return model.energy


@pytest.mark.parametrize("row", [ICNN, "ICNN, gradient descent", "ICNN, Fenchel-Young"])
def test_training_keeps_the_net_convex(row: str, tmp_path: Path) -> None:
    assert fitted_energy(row, tmp_path).is_convex()


def test_without_convexity_weights_of_the_convex_path_become_negative(tmp_path: Path) -> None:
    assert not fitted_energy(NO_CONVEXITY, tmp_path, positivity="abs").is_convex()


@pytest.mark.parametrize("row", WAYS)
def test_every_way_learns(row: str) -> None:
    torch.manual_seed(0)
    images, way = digits_pictures().images[:20], WAYS[row]
    net = Plain(convs=((4, 3, 2),), dense=(8,))
    model = Completer(net, images, way) if way.iterations else Convolutional((4, 6, 8), images)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    before = final_error(model, images)
    for _ in range(15):
        optimizer.zero_grad()
        model.loss(images).backward()
        optimizer.step()
        if way.convex:
            icnn.project_(model)
    assert final_error(model, images) < 0.8 * before


def unet_completer(coupling: bool) -> tuple[Completer, torch.Tensor]:
    images = 0.1 + 0.8 * torch.rand(6, 1, 16, 16)
    return Completer(Unet(channels=(4, 6, 8, 8), dense=7, units=5), images, Way(coupling=coupling)), images


def test_the_u_net_starts_close_to_the_mean_half() -> None:
    model, images = unet_completer(coupling=False)
    x, y = halves(images)
    torch.testing.assert_close(model(x), y.mean(0).expand_as(y), atol=0.01, rtol=0)


def test_the_loss_of_the_u_net_reaches_every_layer() -> None:
    model, images = unet_completer(coupling=True)
    model.loss(images).backward()
    slopes = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(slope is not None and slope.isfinite().all() and slope.any() for slope in slopes.values())


def test_a_failed_inference_is_logged_and_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    model, images = unet_completer(coupling=True)
    images[2] = torch.nan
    found = completions(model, images, iterations=5)[-1]
    assert "some inferences failed" in caplog.text
    assert "1 NONFINITE_INPUT" in caplog.text
    assert found.isfinite().all()

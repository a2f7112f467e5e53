"""Loss curves, picture grids and maps of the plane, drawn without a screen; of several processes the first draws."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from torch import Tensor


def loss_plot(file: Path, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw the losses per epoch; one colour per run, training dashed, validation solid."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="mean squared error (0..255)", yscale="log")
    for number, (name, history) in enumerate(histories.items()):
        epochs = range(1, len(history) + 1)
        for kind, style in (("train", "--"), ("validation", "-")):
            if all(kind in epoch for epoch in history):
                losses = [epoch[kind] for epoch in history]
                label = f"{name}, {kind}"
                width = max(0.7, 3 / (1 + number))  # so that curves that agree are both seen
                axes.plot(epochs, losses, style, color=f"C{number}", linewidth=width, label=label)
    axes.legend(fontsize="small")
    _save(figure, file)


def time_plot(file: Path, histories: Mapping[str, Sequence[Mapping[str, float]]], score: str) -> None:
    """Draw a score, one minus the validation loss, against the seconds spent; one colour for two runs in a row."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds", ylabel=f"{score} on validation, percent", xscale="log")
    for number, (name, history) in enumerate(histories.items()):
        seconds = list(accumulate(epoch["seconds"] for epoch in history))
        matches = [100 * (1 - epoch["validation"]) for epoch in history]
        axes.plot(seconds, matches, ("--", "-")[number % 2], color=f"C{number // 2}", label=name)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize="small")
    _save(figure, file)


def gap_plot(file: Path, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw the median gap of inferences, in a band up to the worst, against evaluations; a colour for each method."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="evaluations of the network", ylabel="energy above its minimum", yscale="log")
    for name, points in curves.items():
        evaluations, median, worst = ([point[key] for point in points] for key in ("evaluations", "median", "worst"))
        (line,) = axes.plot(evaluations, median, marker=".", label=name)
        axes.fill_between(evaluations, median, worst, color=line.get_color(), alpha=0.15)
    axes.legend(fontsize="small")
    _save(figure, file)


def picture_grid(file: Path, columns: Mapping[str, Tensor]) -> None:
    """Draw pictures (n, 1, height, width) in [0, 1], one row per picture and one titled column per entry."""
    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.1 * len(columns), 1.15 * rows), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize="x-small")
        for row, image in enumerate(images):
            axes[row, column].imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
            axes[row, column].axis("off")
    _save(figure, file)


def flow_plot(file: Path, points: Mapping[str, Tensor]) -> None:
    """Draw what becomes of points (n, 2): the first entry alone, then each other one with lines from the first."""
    (first, start), *images = points.items()
    figure = Figure(figsize=(3.6 * len(points), 3.6), layout="constrained")
    panels = figure.subplots(1, len(points), squeeze=False)[0]
    panels[0].scatter(*start.mT.numpy(), s=6, color="C0")
    panels[0].set_title(first)
    for axes, (title, image) in zip(panels[1:], images, strict=True):
        axes.plot(*torch.stack((start, image)).permute(2, 0, 1).numpy(), color="0.8", linewidth=0.5, zorder=0)
        axes.scatter(*start.mT.numpy(), s=3, color="C0", alpha=0.4)
        axes.scatter(*image.mT.numpy(), s=6, color="C3")
        axes.set_title(title)
    for axes in panels:
        axes.set_aspect("equal", "datalim")
    _save(figure, file)


def seeds_plot(file: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> None:
    """Draw the values that methods have at several seeds, one titled panel per entry: a dot each, a bar at the mean."""
    figure = Figure(figsize=(3.2 * len(panels), 3.2), layout="constrained")
    for axes, (title, methods) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, values in enumerate(methods.values()):
            axes.bar(place, sum(values) / len(values), color=f"C{place}", alpha=0.35)
            axes.plot([place] * len(values), values, ".", color=f"C{place}")
        axes.set_xticks(range(len(methods)), methods, rotation=40, ha="right", fontsize="small")
        axes.set_title(title, fontsize="medium")
    figure.supylabel(label, fontsize="medium")
    _save(figure, file)


def interval_plot(file: Path, panels: Mapping[str, tuple[Tensor, Tensor, float]]) -> None:
    """Draw (estimates, half-widths of their intervals, truth) of repetitions; intervals that miss it in red."""
    figure = Figure(figsize=(9, 2.4 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (name, (centres, widths, truth)) in zip(rows, panels.items(), strict=True):
        missed = (centres - truth).abs() > widths
        for chosen, color in ((~missed, "C0"), (missed, "C3")):
            at = chosen.nonzero().flatten()
            axes.errorbar(at, centres[at], widths[at], fmt=".", markersize=3, linewidth=0.8, color=color)
        axes.axhline(truth, color="0.3", linewidth=0.8)
        axes.set_ylabel(name)
    figure.supxlabel("repetition", fontsize="medium")
    _save(figure, file)


class Cloud(NamedTuple):
    """Points (n, 2) of two classes (n,), and the probability of class 1 at points of the plane, if that is known."""

    points: Tensor
    classes: Tensor
    probability: Callable[[Tensor], Tensor] | None = None


def cloud_plot(file: Path, rows: Mapping[str, Mapping[str, Cloud]], size: float = 2) -> None:
    """Draw clouds in rows of titled panels, on the probabilities where they are known, with the line of one half."""
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(2.6 * columns, 2.5 * len(rows)), layout="constrained")
    for panels, (name, clouds) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
        panels[0].set_ylabel(name)
        for axes, (title, cloud) in zip(panels, clouds.items(), strict=True):
            axes.set_title(title, fontsize="small")
            axes.set_xticks([])
            axes.set_yticks([])
            if cloud.probability is not None:
                _draw_probability(axes, cloud.points, cloud.probability)
            for number, colour in enumerate(("C0", "C3")):
                axes.scatter(*cloud.points[cloud.classes == number].mT.numpy(), s=size, color=colour)
    _save(figure, file)


def _draw_probability(axes: Axes, points: Tensor, probability: Callable[[Tensor], Tensor]) -> None:
    """Over the points and a margin around them."""
    low, high = points.min(0).values, points.max(0).values
    margin = 0.1 * (high - low).max()
    x, y = (
        torch.linspace(0, 1, 100, dtype=low.dtype) * (b - a + 2 * margin) + a - margin
        for a, b in zip(low, high, strict=True)
    )
    plane = torch.cartesian_prod(x, y)
    values = probability(plane).detach().reshape(100, 100).mT
    axes.contourf(x, y, values, levels=torch.linspace(0, 1, 21), cmap="coolwarm", alpha=0.5)
    axes.contour(x, y, values, levels=[0.5], colors="black", linewidths=0.8)


def steps_plot(file: Path, panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], label: str) -> None:
    """Draw the time steps of nets, one titled panel per entry, one colour per net and one line per seed."""
    figure = Figure(figsize=(3.4 * len(panels), 3), layout="constrained")
    for axes, (title, nets) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (name, seeds) in enumerate(nets.items()):
            for seed, steps in enumerate(seeds):
                axes.step(
                    range(1, len(steps) + 1), steps, where="mid", color=f"C{number}", label=None if seed else name
                )
        axes.axhline(0, color="0.7", linewidth=0.5, zorder=0)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("k")
    figure.axes[0].legend(fontsize="x-small")
    figure.supylabel(label, fontsize="medium")
    _save(figure, file)


def orbits_plot(file: Path, panels: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Draw plane curves (points, 2), one titled panel per entry; the first name is the truth, and wide."""
    figure, drawn = _grid(panels)
    numbers = _numbers(panels)
    for axes, (title, curves) in drawn:
        for name, curve in curves.items():
            number = numbers[name]
            style = dict(color="0.75", linewidth=4) if not number else dict(color=f"C{number - 1}", linewidth=1)
            axes.plot(*curve.mT.numpy(), ("-", "-", "--", ":")[number], label=name, **style)
        axes.set_title(title)
        axes.set_aspect("equal", "datalim")
    _legend(figure)
    _save(figure, file)


def lines_plot(
    file: Path,
    panels: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]],
    labels: tuple[str, str],
    bands: Mapping[str, tuple[float, float]] | None = None,
    **scales: str,
) -> None:
    """Draw lines (x, y), one titled panel per entry, the same name in the same style; bands: of x, shaded."""
    figure, drawn = _grid(panels)
    numbers = _numbers(panels)
    for axes, (title, lines) in drawn:
        for name, (x, y) in lines.items():
            style = ("-", "--", ":", "-.")[numbers[name] % 4]
            axes.plot(x.numpy(), y.numpy(), style, color=f"C{numbers[name]}", label=name)
        if bands is not None:
            axes.axvspan(*bands[title], color="0.93", zorder=0)
        axes.set(title=title, xlabel=labels[0], **scales)
        axes.tick_params(which="minor", labelbottom=False)
    figure.supylabel(labels[1], fontsize="medium")
    _legend(figure)
    _save(figure, file)


def _grid(panels: Mapping) -> tuple[Figure, list]:
    """A figure, and its axes with the title and content of each panel."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.7 * columns, 3.7 * rows), layout="constrained")
    return figure, list(zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False))


def _numbers(panels: Mapping[str, Mapping]) -> dict[str, int]:
    """A number for each name, the same in all panels."""
    return {name: number for number, name in enumerate(dict.fromkeys(name for of in panels.values() for name in of))}


def _legend(figure: Figure) -> None:
    """One legend below all panels."""
    named = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named, loc="outside lower center", ncols=min(4, len(named)), fontsize="small")


@rank_zero_only
def _save(figure: Figure, file: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=150)

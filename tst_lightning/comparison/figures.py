"""The pictures of a report."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tst_lightning.comparison.sentences import CHANCE
from tst_lightning.comparison.summary import ArmSummary, ScoreSummary
from tst_lightning.drawing import COLOURS, STYLE, empty_figure, png
from tst_lightning.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BASELINE_COLOUR = "#4d4d4d"
_LABEL_GAP = 0.055
"""Least distance between two labels at line ends, as a share of the axes' height."""


def draw_figures(arms: dict[str, ArmSummary], baseline: str, folder: Path) -> dict[str, Path]:
    """Draw every picture that there are data for.

    Returns:
        Name -> PNG file in ``folder``.
    """
    import matplotlib

    colours = {arm: COLOURS[place % len(COLOURS)] for place, arm in enumerate(a for a in arms if a != baseline)}
    colours[baseline] = _BASELINE_COLOUR
    pictures: dict[str, Callable[[], Figure | None]] = {
        "loss_flops": lambda: _loss_figure(arms, colours, "flops"),
        "loss_time": lambda: _loss_figure(arms, colours, "seconds"),
        "final_loss": lambda: _final_figure(arms, colours),
        "downstream": lambda: _downstream_figure(arms, colours),
        "data_tokens": lambda: _tokens_figure(arms, colours),
    }
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name, draw in pictures.items():
            figure = draw()
            if figure is not None:
                drawn[name] = folder / f"{name}.png"
                write_atomically(drawn[name], png(figure))
    return drawn


def _loss_figure(arms: dict[str, ArmSummary], colours: dict[str, str], x: str) -> "Figure | None":
    """Two panels: the whole of training, and its end."""
    shown = {name: arm for name, arm in arms.items() if len(arm.mean_curve(x)[0])}
    if not shown:
        return None
    unit, unit_name = _unit(x, max(arm.mean_curve(x)[0][-1] for arm in shown.values()))
    figure, panels = empty_figure(1, 2, (10.5, 4.2))
    for panel in panels:
        for name, arm in shown.items():
            _draw_arm(panel, arm, colours[name], x, unit)
        panel.set_xlabel(unit_name)
    panels[0].set_ylabel("validation loss (nats per token)")
    panels[0].set_xlim(left=0)
    _zoom(panels[1], shown, x, unit)
    for name, arm in shown.items():
        switch = arm.switch_at(x)
        if switch is None:
            continue
        for panel in panels:
            panel.axvline(switch / unit, color=colours[name], linestyle="--", linewidth=1, zorder=1)
        panels[0].annotate(
            "switch", (switch / unit, 1), xycoords=("data", "axes fraction"), xytext=(4, -2),
            textcoords="offset points", va="top", color=colours[name], fontsize=9,
        )  # fmt: skip
    _label_line_ends(panels[1], {name: arm.mean_curve(x) for name, arm in shown.items()}, colours)
    return figure


def _draw_arm(panel: "Axes", arm: ArmSummary, colour: str, x: str, unit: float) -> None:
    for run in arm.runs:
        values = np.asarray(getattr(run.curve, x))
        if len(values):
            panel.plot(values / unit, run.curve.val_loss, color=colour, linewidth=0.8, alpha=0.45)
    values, losses = arm.mean_curve(x)
    panel.plot(values / unit, losses, color=colour, linewidth=2.2, label=arm.arm)


def _zoom(panel: "Axes", arms: dict[str, ArmSummary], x: str, unit: float) -> None:
    """Show the last part, with room for losses as they are there.

    It starts late enough to leave out most of the recovery after a switch, whose height would flatten the
    differences at the end.
    """
    curves = [arm.mean_curve(x) for arm in arms.values()]
    end = max(values[-1] for values, _ in curves)
    switches = [place for arm in arms.values() if (place := arm.switch_at(x)) is not None]
    latest = max([place for place in switches if place < 0.9 * end], default=0.0)
    start = max(0.5 * end, latest + 0.35 * (end - latest))
    parts = [losses[values >= start] for values, losses in curves]
    inside = np.concatenate([part[np.isfinite(part)] for part in parts] or [np.array([])])
    panel.set_xlim(start / unit, end * 1.005 / unit)
    if len(inside):
        margin = 0.08 * (inside.max() - inside.min()) or 0.01
        panel.set_ylim(inside.min() - margin, inside.max() + margin)


def _label_line_ends(panel: "Axes", curves: dict[str, tuple[np.ndarray, np.ndarray]], colours: dict[str, str]) -> None:
    """Write each arm's name beside the end of its line, pushed apart where they would overlap."""
    low, high = panel.get_ylim()
    heights = {
        name: float(np.clip((losses[-1] - low) / (high - low), 0.02, 0.98))
        for name, (_, losses) in curves.items()
        if math.isfinite(losses[-1])
    }
    order = sorted(heights, key=heights.get)
    for before, name in itertools.pairwise(order):
        heights[name] = max(heights[name], heights[before] + _LABEL_GAP)
    for name, ceiling in zip(reversed(order), itertools.count(1.0, -_LABEL_GAP), strict=False):
        heights[name] = min(heights[name], ceiling)
    for name, height in heights.items():
        panel.text(1.02, height, name, transform=panel.transAxes, color=colours[name], va="center", weight="bold")


def _final_figure(arms: dict[str, ArmSummary], colours: dict[str, str]) -> "Figure | None":
    shown = [arm for arm in arms.values() if arm.final is not None and math.isfinite(arm.final.mean)]
    if not shown:
        return None
    figure, (panel,) = empty_figure(1, 1, (1.8 + 1.3 * len(shown), 3.8))
    for seed in sorted({seed for arm in shown for seed in arm.final_by_seed}):
        places = [place for place, arm in enumerate(shown) if seed in arm.final_by_seed and not arm.other_validation]
        panel.plot(
            places, [shown[place].final_by_seed[seed] for place in places],
            color="#bbbbbb", linewidth=0.9, zorder=1,
        )  # fmt: skip
    for place, arm in enumerate(shown):
        values = list(arm.final_by_seed.values())
        panel.scatter([place] * len(values), values, s=24, color=colours[arm.arm], alpha=0.7, zorder=2)
        if arm.final.low is not None:
            half = arm.final.high - arm.final.mean
            panel.errorbar(place + 0.14, arm.final.mean, half, fmt="D", color=colours[arm.arm], capsize=4, markersize=5)
        panel.annotate(
            f"{arm.final.mean:.4f}", (place, arm.final.mean), xytext=(-8, 0), ha="right", va="center",
            textcoords="offset points", color=colours[arm.arm], zorder=3,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    panel.set_xticks(range(len(shown)), [arm.arm for arm in shown])
    panel.set_xlim(-0.7, len(shown) - 0.4)
    panel.margins(y=0.15)
    panel.grid(axis="x", visible=False)
    panel.set_ylabel("final validation loss (nats per token)")
    return figure


def _downstream_figure(arms: dict[str, ArmSummary], colours: dict[str, str]) -> "Figure | None":
    def is_accuracy(score: ScoreSummary) -> bool:
        return not score.in_group and score.higher_is_better and 0 <= score.over_seeds.mean <= 1

    keys = list(dict.fromkeys((s.task, s.metric) for arm in arms.values() for s in arm.scores if is_accuracy(s)))
    if not keys:
        return None
    present = [arm for arm in arms.values() if arm.scores]
    height = 0.22 * len(present) + 0.25
    figure, (panel,) = empty_figure(1, 1, (7.0, 1.0 + height * len(keys)))
    for row, key in enumerate(keys):
        if key[0] in CHANCE:
            panel.plot([CHANCE[key[0]]] * 2, [row - 0.42, row + 0.42], color="#aaaaaa", linewidth=2, zorder=1)
        for place, arm in enumerate(present):
            score = next((s for s in arm.scores if (s.task, s.metric) == key), None)
            if score is None:
                continue
            y = row + (place - (len(present) - 1) / 2) * 0.7 / len(present)
            colour, label = colours[arm.arm], arm.arm if row == 0 else None
            panel.errorbar(score.over_seeds.mean, y, xerr=score.stderr, fmt="o", color=colour, capsize=3, label=label)
            values = list(score.by_seed.values())
            panel.scatter(values, [y] * len(values), s=10, facecolor="white", edgecolor=colour, zorder=4)
    panel.set_yticks(range(len(keys)), [f"{task}\n{metric}" for task, metric in keys])
    panel.set_ylim(len(keys) - 0.45, -0.55)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("accuracy")
    panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor="linecolor")
    return figure


def _tokens_figure(arms: dict[str, ArmSummary], colours: dict[str, str]) -> "Figure | None":
    """Data tokens against FLOPs, of each arm's run that has come furthest; seeds do not differ here."""
    curves = {}
    for name, arm in arms.items():
        usable = [run.curve for run in arm.runs if run.curve.flops and run.curve.data_tokens]
        if usable:
            longest = max(usable, key=lambda curve: curve.steps[-1])
            curves[name] = (
                np.array([0.0, *longest.flops]),
                np.array([0.0, *longest.data_tokens]),
            )
    if not curves:
        return None
    unit, unit_name = _unit("flops", max(values[-1] for values, _ in curves.values()))
    figure, (panel,) = empty_figure(1, 1, (5.6, 3.4))
    for name, (values, tokens) in curves.items():
        panel.plot(values / unit, tokens / 1e6, color=colours[name], linewidth=2)
    panel.set_xlim(left=0, right=max(values[-1] for values, _ in curves.values()) / unit)
    panel.set_ylim(bottom=0)
    panel.set_xlabel(unit_name)
    panel.set_ylabel("data tokens read (millions)")
    scaled = {name: (values, tokens / 1e6) for name, (values, tokens) in curves.items()}
    _label_line_ends(panel, scaled, colours)
    return figure


def _unit(x: str, largest: float) -> tuple[float, str]:
    """Divisor and axis label that keep tick labels short."""
    if x == "flops":
        power = math.floor(math.log10(largest)) if largest > 0 else 0
        power -= power % 3
        return 10.0**power, f"training FLOPs (10$^{{{power}}}$)" if power else "training FLOPs"
    for seconds, name in ((3600.0, "hours"), (60.0, "minutes")):
        if largest >= 2 * seconds:
            return seconds, f"training time ({name})"
    return 1.0, "training time (seconds)"

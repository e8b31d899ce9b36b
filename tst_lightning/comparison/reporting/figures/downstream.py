"""Downstream tasks: scores, and differences with intervals over seeds and over items."""

from typing import TYPE_CHECKING

from tst_lightning.comparison.reporting.figures.shared import Material, Picture, half_widths, longest
from tst_lightning.comparison.reporting.sentences import CHANCE
from tst_lightning.drawing import empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tst_lightning.comparison.analysis.summary import ArmSummary, ScoreSummary

_Key = tuple[str, str]


def downstream_picture(material: Material) -> Picture | None:
    """A row of two panels for each variant: accuracies, and their differences to the baseline."""
    rows, notes = {}, []
    for variant, arms in material.variants.items():
        scored = longest([arm for arm in arms if any(_is_accuracy(score) for score in arm.scores)])
        rows[variant], note = material.pick(scored)
        notes.append(note)
    rows = {variant: arms for variant, arms in rows.items() if arms}
    if not rows:
        return None
    keys = {variant: _keys(arms) for variant, arms in rows.items()}
    heights = [0.9 + len(keys[variant]) * (0.2 * len(arms) + 0.2) for variant, arms in rows.items()]
    figure, panels = empty_figure(len(rows), 2, (9.0, sum(heights) + 0.5), sharey="row", height_ratios=heights)
    has_items = has_seeds = False
    for place, (variant, arms) in enumerate(rows.items()):
        scores, differences = panels[2 * place : 2 * place + 2]
        _draw_scores(scores, arms, keys[variant], material)
        items, seeds = _draw_differences(differences, arms, keys[variant], material)
        has_items, has_seeds = has_items or items, has_seeds or seeds
        scores.set_title(", ".join(filter(None, [variant, "score"])))
        differences.set_title("difference to the baseline")
    _legend(figure, [arm for arms in rows.values() for arm in arms], material)
    return Picture(figure, _caption(rows, keys, has_items, has_seeds, notes))


def _is_accuracy(score: "ScoreSummary") -> bool:
    return not score.in_group and score.higher_is_better and 0 <= score.over_seeds.mean <= 1


def _keys(arms: list["ArmSummary"]) -> list[_Key]:
    return list(dict.fromkeys((s.task, s.metric) for arm in arms for s in arm.scores if _is_accuracy(s)))


def _places(arms: list["ArmSummary"], row: int) -> dict[str, float]:
    """Arm -> height of its line in a task's row."""
    return {arm.arm: row + (place - (len(arms) - 1) / 2) * 0.75 / len(arms) for place, arm in enumerate(arms)}


def _draw_scores(panel: "Axes", arms: list["ArmSummary"], keys: list[_Key], material: Material) -> None:
    for row, key in enumerate(keys):
        if key[0] in CHANCE:
            panel.plot([CHANCE[key[0]]] * 2, [row - 0.45, row + 0.45], color="#999999", linewidth=2.5, zorder=1)
        if row % 2:
            panel.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", zorder=0)
        for arm in arms:
            score = next((s for s in arm.scores if (s.task, s.metric) == key), None)
            if score is None:
                continue
            look, y = material.look(arm.arm), _places(arms, row)[arm.arm]
            panel.errorbar(
                score.over_seeds.mean, y, xerr=_score_bar(score),
                fmt=look.marker, color=look.colour, markersize=5.5, capsize=2.5, linewidth=1.3,
            )  # fmt: skip
    panel.set_yticks(range(len(keys)), [f"{task}\n{metric}" for task, metric in keys])
    panel.set_ylim(len(keys) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)


def _score_bar(score: "ScoreSummary") -> list[list[float]] | float | None:
    """Interval over seeds; with one seed, over items."""
    seeds = score.over_seeds
    if seeds.n == 1:
        return None if score.stderr is None else 1.96 * score.stderr
    return half_widths(seeds.mean, seeds.low, seeds.high)


def _draw_differences(panel: "Axes", arms, keys: list[_Key], material: Material) -> tuple[bool, bool]:
    """Returns whether there are intervals over items, and over seeds."""
    has_items = has_seeds = False
    panel.axvline(0, color=material.looks[material.baseline].colour, linewidth=1.4)
    for row, key in enumerate(keys):
        if row % 2:
            panel.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", zorder=0)
        for arm in arms:
            pair = material.to_baseline(arm.arm)
            score = next((s for s in pair.scores if (s.task, s.metric) == key), None) if pair else None
            if score is None or score.over_seeds is None:
                continue
            look, y = material.look(arm.arm), _places(arms, row)[arm.arm]
            seeds, items = score.over_seeds, score.over_items
            centre = seeds.mean
            if items is not None and items.low is not None:
                has_items = True
                panel.plot([items.low, items.high], [y, y], color=look.colour, linewidth=6, alpha=0.28,
                           solid_capstyle="butt", zorder=2)  # fmt: skip
            has_seeds |= seeds.low is not None
            panel.errorbar(
                centre, y, xerr=half_widths(centre, seeds.low, seeds.high), fmt=look.marker, color=look.colour,
                markersize=5.5, capsize=2.5, linewidth=1.3, zorder=3,
                markerfacecolor=look.colour if score.is_shown else "white",
            )  # fmt: skip
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)
    panel.locator_params(axis="x", nbins=5)
    return has_items, has_seeds


def _legend(figure, arms: list["ArmSummary"], material: Material) -> None:
    from matplotlib.lines import Line2D

    looks = {arm.method: material.look(arm.arm) for arm in arms}
    handles = [
        Line2D([], [], color=look.colour, linestyle="none", marker=look.marker, label=method)
        for method, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, labelcolor="linecolor")


def _caption(rows, keys: dict[str, list[_Key]], has_items: bool, has_seeds: bool, notes: list[str]) -> str:
    counts = sorted({score.over_seeds.n for arms in rows.values() for arm in arms for score in arm.scores})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = [f"Downstream accuracy, right is better, n = {n} seed{'s' if counts[-1] > 1 else ''}."]
    parts.append(
        "Left: the scores; bars are 95 % intervals over seeds." if has_seeds
        else "Left: the scores; bars are 1.96 standard errors over items."
    )  # fmt: skip
    if any(task in CHANCE for found in keys.values() for task, _ in found):
        parts.append("Thick grey lines mark guessing.")
    parts.append("Right: differences to the baseline.")
    if has_seeds:
        parts.append("Thin bars are 95 % intervals over seeds.")
    if has_items:
        parts.append("Broad pale bars are 95 % intervals over items.")
    parts.append(
        "Points are filled where the difference is shown: where the tests that there are, over items and over "
        "seeds, both find it after Holm's correction."
    )
    lengths = {arm.steps for arms in rows.values() for arm in arms if arm.steps}
    if lengths:
        parts.append(f"Runs of {' and '.join(f'{length:,}' for length in sorted(lengths))} steps.")
    return " ".join([*parts, *dict.fromkeys(note for note in notes if note)])

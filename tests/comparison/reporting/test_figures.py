"""What stands in the pictures, read back from matplotlib's objects."""

import numpy as np
import pytest
from figure_material import FLOPS_PER_STEP, make_arm, make_grid, make_material, make_pair
from matplotlib.colors import to_hex, to_rgb

from tst_lightning.comparison.analysis.statistics import PairedDifference, summarize
from tst_lightning.comparison.analysis.summary import (
    Frontier,
    FrontierPoint,
    ItemTest,
    Overtaking,
    ScoreDifference,
    ScoreSummary,
    SpeedUp,
)
from tst_lightning.comparison.reporting.figures import draw_figures
from tst_lightning.comparison.reporting.figures.bag_sizes import bag_size_picture
from tst_lightning.comparison.reporting.figures.curves import loss_picture
from tst_lightning.comparison.reporting.figures.differences import differences_picture
from tst_lightning.comparison.reporting.figures.downstream import downstream_picture
from tst_lightning.comparison.reporting.figures.frontier import frontier_picture
from tst_lightning.comparison.reporting.figures.grid import grids
from tst_lightning.comparison.reporting.figures.heat_map import heat_map_picture
from tst_lightning.comparison.reporting.figures.lengths import length_picture
from tst_lightning.comparison.reporting.figures.looks import superposition
from tst_lightning.comparison.reporting.figures.paper_curves import PaperCurves
from tst_lightning.comparison.reporting.figures.shared import longest, longest_of_each

CONFIG = """trainer:
  callbacks:
    - class_path: callbacks.Other
    - class_path: callbacks.SuperpositionCallback
      init_args: {bag_size: 6, step_ratio: 0.2}
"""


def texts(panel) -> list[str]:
    return [text.get_text() for text in panel.texts]


def test_every_method_has_a_look_of_its_own() -> None:
    material = make_grid()
    looks = material.looks
    assert len({(look.colour, look.line, look.marker) for look in looks.values()}) == 26
    assert looks["tst_s4_r0.1"].colour == looks["tst_s4_r0.5"].colour != looks["tst_s8_r0.1"].colour
    assert looks["tst_s4_r0.3"].line == looks["tst_s16_r0.3"].line != looks["tst_s4_r0.2"].line
    few = make_grid((4, 8), (0.1, 0.3)).looks
    assert len({look.colour for look in few.values()}) == 5
    assert len({look.line for name, look in few.items() if name != "baseline"}) == 4
    for name, look in looks.items():
        red, green, blue = to_rgb(look.colour)
        assert (max(red, green, blue) - min(red, green, blue) < 0.02) == (name == "baseline")
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75  # seen on white


def test_references_are_grey_and_a_method_keeps_its_look_at_every_length() -> None:
    base, longer = (make_arm("baseline", {1: 1.5}, steps) for steps in (100, 200))
    data = make_arm("baseline_same_data", {1: 1.4}, 100)
    arms = [make_arm("tst", {1: 1.4}, steps) for steps in (100, 200)]
    pairs = [make_pair(arms[0], base), make_pair(arms[0], data), make_pair(arms[1], longer)]
    material = make_material([base, longer, data, *arms], pairs)
    assert set(material.looks) == {"baseline", "baseline_same_data", "tst"}
    greys = [material.looks[method].colour for method in ("baseline", "baseline_same_data")]
    assert all(len(set(to_rgb(grey))) == 1 for grey in greys)
    assert greys[0] != greys[1]
    assert material.look("tst-100") == material.look("tst-200")


def test_bag_size_and_ratio_come_from_factors_or_from_the_configuration() -> None:
    assert superposition(make_arm("a", {1: 1.0}, factors={"s": 4, "r": 0.3})) == (4, 0.3)
    assert superposition(make_arm("a", {1: 1.0}, config=CONFIG)) == (6, 0.2)
    assert superposition(make_arm("a", {1: 1.0}, config=CONFIG, factors={"s": 4})) == (4, 0.2)
    assert superposition(make_arm("a", {1: 1.0}, config="trainer: {callbacks: [")) is None
    assert superposition(make_arm("a", {1: 1.0})) is None


def test_arms_that_differ_in_something_unknown_are_no_grid() -> None:
    base = make_arm("baseline", {1: 1.5})
    arms = [make_arm(name, {1: 1.4}, factors={"s": s, "r": 0.3}) for name, s in (("a", 4), ("b", 4), ("c", 8))]
    assert grids(make_material([base, *arms], [make_pair(arm, base) for arm in arms])) == []
    assert len(grids(make_material([base, *arms[1:]], [make_pair(arm, base) for arm in arms[1:]]))) == 1


def test_many_arms_leave_the_best_the_worst_and_the_baseline() -> None:
    material = make_grid()
    shown, note = material.pick(list(material.summary.arms.values()))
    losses = {name: arm.final.mean for name, arm in material.summary.arms.items() if name != "baseline"}
    assert {arm.arm for arm in shown} == {"baseline", max(losses, key=losses.get), min(losses, key=losses.get)}
    assert "Of 26 arms" in note
    few = list(make_grid((4, 8), (0.1, 0.3)).summary.arms.values())
    assert make_grid((4, 8), (0.1, 0.3)).pick(few) == (few, "")


def test_loss_curves_and_the_transient_at_equal_flops() -> None:
    base = make_arm("baseline", {1: 1.0}, curves={1: {20: 4.0, 40: 3.0, 60: 2.0, 80: 1.5, 100: 1.0}})
    curve = {25: 5.0, 50: 4.0, 70: 1.9, 75: 1.6, 100: 0.9}
    tst = make_arm("tst", {1: 0.9}, curves={1: curve}, switch_step=50)
    picture = loss_picture(make_material([base, tst], [make_pair(tst, base)]), "flops")
    whole, end = picture.figure.axes
    drawn = {line.get_color(): line.get_xydata() for line in whole.lines if len(line.get_xdata()) == 5}
    assert drawn["#0072B2"] == pytest.approx(np.array([[step / 100, loss] for step, loss in curve.items()]))
    (inset,) = whole.child_axes
    # Half of what is left after step 50: the points at 50, 70 and 75 against the baseline's line at these steps.
    assert inset.lines[0].get_xydata() == pytest.approx(
        np.array([[0, 4 - 2.5], [0.2, 1.9 - 1.75], [0.25, 1.6 - 1.625]])
    )
    assert any(np.allclose(line.get_xdata(), 0.5) for line in whole.lines)
    assert end.get_xlim()[0] == pytest.approx(0.5 + 0.35 * 0.5)
    assert {"baseline", "tst"} <= set(texts(end))
    assert "switch" in texts(whole)


def test_the_longest_runs_are_lines_and_the_others_points() -> None:
    arms = [make_arm(method, {1: loss}, steps, curves={1: {steps // 2: 2.0, steps: loss}})
            for method, loss in (("baseline", 1.5), ("tst", 1.4)) for steps in (100, 200)]  # fmt: skip
    pairs = [make_pair(arms[2], arms[0]), make_pair(arms[3], arms[1])]
    picture = loss_picture(make_material(arms, pairs), "flops")
    whole = picture.figure.axes[0]
    points = [tuple(line.get_xydata()[0]) for line in whole.lines if len(line.get_xdata()) == 1]
    assert np.array(sorted(points)) == pytest.approx(np.array([(1.0, 1.4), (1.0, 1.5)]))
    assert "The lines are the runs of 200 steps." in picture.caption
    assert "Open points are the final losses of the shorter runs." in picture.caption


def test_differences_are_filled_where_they_are_shown() -> None:
    material = make_grid((4, 8), (0.1, 0.3))
    picture = differences_picture(material)
    (panel,) = picture.figure.axes
    fills = {}
    for container in panel.containers:
        point = container.lines[0]
        fills[round(point.get_ydata()[0])] = (point.get_markerfacecolor(), point.get_xdata()[0])
    names = [label.get_text() for label in panel.get_yticklabels()]
    for row, name in enumerate(names):
        face, mean = fills[row]
        assert (face == "white") == name.startswith("tst_s8")
        assert mean == pytest.approx(material.summary.pairs_of(name)[0].difference.mean)
    assert names == [arm for arm in material.summary.arms if arm != "baseline"]


def test_u_over_bag_size_and_the_published_one() -> None:
    material = make_grid()
    paper = [PaperCurves("270m", {0.3: {2: -0.1, 4: -0.2, 8: -0.15}, 0.9: {2: 1.0}})]
    picture = bag_size_picture(material, paper)
    own, published = picture.figure.axes
    means = {}
    for container in own.containers:
        point = container.lines[0]
        means[round(float(point.get_ydata()[0]), 9)] = (to_hex(point.get_color()), point.get_marker())
        (bar,) = container.lines[2]
        low, high = sorted(bar.get_segments()[0][:, 1])
        assert (low + high) / 2 == pytest.approx(point.get_ydata()[0])
    assert len(means) == 25
    for pair in material.summary.pairs:
        look = material.look(pair.arm)
        assert means[round(pair.difference.mean, 9)] == (look.colour, look.marker)
        low, high = pair.difference.low, pair.difference.high
        assert any(sorted(c.lines[2][0].get_segments()[0][:, 1]) == pytest.approx([low, high]) for c in own.containers)
    lines = [line for line in published.lines if len(line.get_xdata()) == 3]
    assert [line.get_ydata().tolist() for line in lines if line.get_linestyle() != "None"] == [[-0.1, -0.2, -0.15]]
    assert own.get_xscale() == published.get_xscale() == "log"
    assert "270m" in published.get_title()
    assert "shape" in picture.caption
    assert len(bag_size_picture(material, []).figure.axes) == 1
    assert bag_size_picture(make_grid((4,), (0.3,)), paper) is None


def test_heat_map_has_a_number_in_each_cell_and_marks_what_is_not_significant() -> None:
    material = make_grid()
    panel, bar = heat_map_picture(material).figure.axes
    image = panel.images[0]
    values = image.get_array()
    assert values.shape == (5, 5)
    sizes, ratios = (2, 4, 6, 8, 16), (0.1, 0.2, 0.3, 0.4, 0.5)
    shown = texts(panel)
    for row, ratio in enumerate(ratios):
        for column, size in enumerate(sizes):
            mean = material.summary.pairs_of(f"tst_s{size}_r{ratio}")[0].difference.mean
            assert values[row, column] == pytest.approx(mean)
            text = shown[5 * row + column]
            assert text == (f"{mean:+.3f}" if size == 4 else f"({mean:+.3f})")
    assert len(panel.patches) == 20  # hatches
    assert image.norm.vmin == -image.norm.vmax
    assert "nats" in bar.get_ylabel()
    assert heat_map_picture(make_grid((4, 8), (0.3,))) is None


def frontier_material(branched: bool = True):
    def losses(method: str, scale: float) -> list:
        return [make_arm(method, {1: scale / steps, 2: 1.1 * scale / steps}, steps) for steps in (100, 200, 400)]

    base, tst = losses("baseline", 200.0), losses("tst", 100.0)
    kinds = {"baseline": "branches of one trunk" if branched else "one run per length", "tst": "one run per length"}
    frontiers = tuple(
        Frontier(arms[0].method, "", kinds[arms[0].method],
                 tuple(FrontierPoint(a.arm, a.steps, a.costs["flops"], a.final_by_seed) for a in arms))
        for arms in (base, tst)
    )  # fmt: skip
    # Half the loss at any budget, and a loss as one over the budget: half the budget for any loss.
    loss = summarize(list(base[-1].final_by_seed.values())).mean
    speed_ups = (SpeedUp("tst", "", loss, 400, "baseline", 2.0, 1.8, 2.2, 2, ""),)
    overtaking = Overtaking("tst", "", 150.0, 150 * FLOPS_PER_STEP, False, {1: 150.0, 2: 150.0}, 2, 100, 400)
    pairs = [make_pair(arm, reference) for arm, reference in zip(tst, base, strict=True)]
    return make_material([*base, *tst], pairs, frontiers=frontiers, speed_ups=speed_ups, overtakings=(overtaking,))


def test_frontier_has_the_speed_up_as_an_arrow_and_says_how_models_came_about() -> None:
    picture = frontier_picture(frontier_material())
    (panel,) = picture.figure.axes
    assert panel.get_xscale() == panel.get_yscale() == "log"
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend == ["baseline\n(branches of one trunk)", "tst\n(one run per length)"]
    arrow = next(text for text in panel.texts if text.arrow_patch is not None)
    assert arrow.xy[0] == pytest.approx(200 * FLOPS_PER_STEP)
    assert arrow.xyann == pytest.approx((400 * FLOPS_PER_STEP, arrow.xy[1]))
    assert "2.00 times\n(1.80 to 2.20, n = 2)" in texts(panel)
    points = sorted(float(container.lines[0].get_ydata()[0]) for container in panel.containers)
    assert points == pytest.approx(sorted([2.1, 1.05, 0.525, 1.05, 0.525, 0.2625]))
    assert "extrapolated" in picture.caption


def test_difference_over_run_length_and_where_it_crosses() -> None:
    material = frontier_material()
    (panel,) = length_picture(material).figure.axes
    line = next(line for line in panel.lines if len(line.get_xdata()) == 3)
    assert line.get_xdata() == pytest.approx([100, 200, 400])
    assert line.get_ydata() == pytest.approx([-1.05, -0.525, -0.2625])
    triangle = next(line for line in panel.lines if line.get_marker() == "v")
    assert triangle.get_xydata() == pytest.approx(np.array([[150.0, 0.0]]))
    assert length_picture(make_grid((4, 8), (0.1, 0.3))) is None


def equal_flops_material():
    """Steps of tst_s4 cost half as much, those of tst_s8 a quarter: twice and four times as many."""
    arms = {
        (method, length): make_arm(
            method, {1: loss / length}, factor * length, length=length, factors={"s": bag_size, "r": 0.5}
        )
        for length in (100, 400)
        for method, loss, factor, bag_size in (
            ("baseline", 200.0, 1, 1), ("tst_s4", 100.0, 2, 4), ("tst_s8", 150.0, 4, 8),
        )
    }  # fmt: skip
    pairs = [make_pair(arm, arms["baseline", length]) for (method, length), arm in arms.items() if method != "baseline"]
    crossed = Overtaking("tst_s4", "", 400.0, 1.0, False, {1: 400.0}, 1, 200, 400)
    return make_material(list(arms.values()), pairs, overtakings=(crossed,))


def test_arms_of_equal_flops_stand_at_the_length_that_they_are_compared_at() -> None:
    material = equal_flops_material()
    found = grids(material)
    assert [(grid.length, grid.bag_sizes) for grid in found] == [(400, [4, 8]), (100, [4, 8])]
    assert {arm.arm for arm in longest(list(material.summary.arms.values()))} == {
        "baseline-400", "tst_s4-800", "tst_s8-1600"
    }  # fmt: skip
    assert [grid.length for grid in longest_of_each(found)] == [400]
    assert "Only the longest runs are drawn" in bag_size_picture(material, []).caption
    (panel,) = length_picture(material).figure.axes
    drawn = [list(line.get_xdata()) for line in panel.lines if line.get_label().startswith("tst")]
    assert drawn == [pytest.approx([100, 400], rel=0.02)] * 2
    triangle = next(line for line in panel.lines if line.get_marker() == "v" and len(line.get_xdata()) == 1)
    # 400 of its steps lie halfway, in logarithms, between 200 and 800: at the length of 200.
    assert triangle.get_xdata() == pytest.approx([200])


def test_downstream_differences_have_intervals_over_seeds_and_over_items() -> None:
    def score(*values: float) -> ScoreSummary:
        return ScoreSummary("piqa", "acc", dict(enumerate(values)), summarize(values), 0.01, 400, True, False)

    base = make_arm("baseline", {1: 1.5, 2: 1.5}, scores=(score(0.55, 0.57),))
    tst = make_arm("tst", {1: 1.4, 2: 1.4}, scores=(score(0.6, 0.61),))
    seeds = PairedDifference(2, 0.045, 0.007, -0.02, 0.11, 0.07, {1: 0.05, 2: 0.04})
    items = ItemTest(400, None, 0.045, 0.01, 0.08, 0.012, "paired bootstrap")
    difference = ScoreDifference("piqa", "acc", True, False, seeds, items)
    picture = downstream_picture(make_material([base, tst], [make_pair(tst, base, [difference])]))
    scores, differences = picture.figure.axes
    spans = [line.get_xdata().tolist() for line in differences.lines if line.get_linewidth() == 6]
    assert spans == [[0.01, 0.08]]
    (container,) = differences.containers
    assert container.lines[2][0].get_segments()[0][:, 0] == pytest.approx([-0.02, 0.11])
    assert container.lines[0].get_markerfacecolor() == "white"  # items find it, seeds do not
    chance = [line.get_xdata().tolist() for line in scores.lines if line.get_color() == "#999999"]
    assert chance == [[0.5, 0.5]]
    means = [container.lines[0].get_xdata()[0] for container in scores.containers]
    assert means == pytest.approx([0.56, 0.605])


def test_pictures_are_drawn_where_there_are_data_and_old_ones_taken_away(tmp_path) -> None:
    (tmp_path / "frontier.png").write_bytes(b"of an earlier report")
    (tmp_path / "mine.png").write_bytes(b"not a picture of the report")
    summary = make_grid((4, 8), (0.1, 0.3)).summary
    drawn = draw_figures(summary, "baseline", tmp_path)
    assert set(drawn) == {"differences", "loss_flops", "loss_time", "bag_size", "heat_map", "data_tokens"}
    assert {path.stem for path in tmp_path.iterdir()} == {*drawn, "mine"}
    for name, figure in drawn.items():
        assert figure.path == tmp_path / f"{name}.png"
        assert figure.path.read_bytes().startswith(b"\x89PNG")
        assert len(figure.caption) > 40

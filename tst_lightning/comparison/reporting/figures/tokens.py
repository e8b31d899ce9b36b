"""How much text an arm reads for its FLOPs."""

import numpy as np

from tst_lightning.comparison.reporting.figures.shared import Material, Picture, label_line_ends, longest, unit
from tst_lightning.drawing import empty_figure


def tokens_picture(material: Material) -> Picture | None:
    """Data tokens against FLOPs of each arm's run that has come furthest; seeds do not differ here."""
    variant = next(iter(material.variants), "")
    arms, note = material.pick(longest([arm for arm in material.variants[variant] if _longest_curve(arm)]))
    if not arms:
        return None
    curves = {}
    for arm in arms:
        curve = _longest_curve(arm)
        curves[arm.method] = (np.array([0.0, *curve.flops]), np.array([0.0, *curve.data_tokens]) / 1e6)
    furthest = max(values[-1] for values, _ in curves.values())
    divisor, label = unit("flops", furthest)
    figure, (panel,) = empty_figure(1, 1, (6.5, 3.4))
    for name, (values, tokens) in curves.items():
        panel.plot(values / divisor, tokens, **material.looks[name].style, linewidth=2)
    panel.set_xlim(left=0, right=furthest / divisor)
    panel.set_ylim(bottom=0)
    panel.set_xlabel(label)
    panel.set_ylabel("data tokens read (millions)")
    ends = {name: tokens[-1] for name, (_, tokens) in curves.items()}
    label_line_ends(panel, ends, {name: material.looks[name].colour for name in curves})
    text = "Data tokens read against FLOPs: at equal FLOPs a superposed phase reads more text."
    if variant:
        text += f" Drawn for {variant}."
    return Picture(figure, " ".join(filter(None, [text, note])))


def _longest_curve(arm):
    usable = [run.curve for run in arm.runs if run.curve.flops and run.curve.data_tokens]
    return max(usable, key=lambda curve: curve.steps[-1], default=None)

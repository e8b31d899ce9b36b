"""The pictures of a report, one file for each family."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tst_lightning.comparison.reporting.document import Figure
from tst_lightning.comparison.reporting.figures.looks import method_looks
from tst_lightning.comparison.reporting.figures.paper_curves import PaperCurves, read_paper_curves
from tst_lightning.comparison.reporting.figures.shared import Material, Picture
from tst_lightning.drawing import STYLE, png
from tst_lightning.files import write_atomically

if TYPE_CHECKING:
    from tst_lightning.comparison.analysis.summary import ComparisonSummary

__all__ = ["PaperCurves", "draw_figures", "method_looks", "read_paper_curves"]


def draw_figures(
    summary: "ComparisonSummary", baseline: str, folder: Path, paper: Sequence[PaperCurves] = ()
) -> dict[str, Figure]:
    """Draw every picture that there are data for, and take away those of an earlier report that there are none for.

    Args:
        summary: what to draw.
        baseline: the method that the others are compared with.
        folder: of the PNG files.
        paper: published losses to lay beside the comparison's own.

    Returns:
        Name -> picture with its caption.
    """
    import matplotlib

    material = Material(summary, baseline, method_looks(summary, baseline))
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name, draw in _pictures(material, list(paper)).items():
            picture = draw()
            path = folder / f"{name}.png"
            if picture is None:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, png(picture.figure))
                drawn[name] = Figure(path, picture.caption)
    return drawn


def _pictures(material: Material, paper: list[PaperCurves]) -> dict[str, Callable[[], Picture | None]]:
    from tst_lightning.comparison.reporting.figures.bag_sizes import bag_size_picture
    from tst_lightning.comparison.reporting.figures.curves import loss_picture
    from tst_lightning.comparison.reporting.figures.differences import differences_picture
    from tst_lightning.comparison.reporting.figures.downstream import downstream_picture
    from tst_lightning.comparison.reporting.figures.frontier import frontier_picture
    from tst_lightning.comparison.reporting.figures.heat_map import heat_map_picture
    from tst_lightning.comparison.reporting.figures.lengths import length_picture
    from tst_lightning.comparison.reporting.figures.tokens import tokens_picture

    return {
        "differences": lambda: differences_picture(material),
        "loss_flops": lambda: loss_picture(material, "flops"),
        "loss_time": lambda: loss_picture(material, "seconds"),
        "bag_size": lambda: bag_size_picture(material, paper),
        "heat_map": lambda: heat_map_picture(material),
        "run_length": lambda: length_picture(material),
        "frontier": lambda: frontier_picture(material),
        "downstream": lambda: downstream_picture(material),
        "data_tokens": lambda: tokens_picture(material),
    }

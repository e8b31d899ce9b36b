"""How every picture looks."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, told apart with every kind of colour vision."""

GREYS = ("#222222", "#777777", "#aaaaaa")
"""For what the others are compared with."""

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
"""Line styles, so that lines are told apart where colours are not printed."""

MARKERS = ("s", "^", "D", "v", "P", "X")
"""Point shapes, for the same reason; the circle is the baseline's."""

DOTS_PER_INCH = 150

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.dpi": DOTS_PER_INCH,
    "savefig.bbox": "tight",
}
"""For ``matplotlib.rc_context``."""


def empty_figure(rows: int, columns: int, size: tuple[float, float], **axes) -> tuple["Figure", Sequence["Axes"]]:
    """A figure without pyplot, so that nothing global is touched.

    Args:
        rows: of panels; 0 for a figure without any.
        columns: of panels.
        size: width and height in inches.
        axes: passed to ``Figure.subplots``.

    Returns:
        The figure and its panels, row by row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **axes).ravel() if rows else []


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

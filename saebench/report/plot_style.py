"""How plots look, in one place: colour-blind safe colours, direct labels, the same bytes every time."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from saebench.errors import MissingExtraError
from saebench.report.escape import terminal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito, darkened until coloured words read well on white; a test holds them apart under
# simulated colour blindness. Beyond five checkpoints the dashes change.
PALETTE = ("#0072B2", "#C44E00", "#1C8F63", "#8E2F77", "#222222")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
INK, FAINT, GRID = "#222222", "#6b6b6b", "#dddddd"
WIDTH, DPI = 7.4, 150  # inches, dots per inch: 1,110 pixels, what a card shows at full width
LONGEST_NAME = 34

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "font.size": 9.0,
    "text.parse_math": False,  # a name with dollar signs is a name
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def has_matplotlib() -> bool:
    """Whether plots can be drawn here; nothing is imported to find out."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def png(draw: Callable[[], Figure]) -> bytes:
    """The PNG of the figure that ``draw`` makes, in our style and without a date or a version in it.

    Raises :class:`MissingExtraError` when matplotlib is not installed.
    """
    try:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise MissingExtraError(
            "drawing plots",
            "matplotlib is not installed",
            "pip install 'saebench-suites[plots]', or write the report without plots.",
        ) from None
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = draw()
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def one_axes(height: float) -> Axes:
    """The axes of a new figure ``height`` inches high that has no others."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained").subplots()


def figure_of(axes: Axes) -> Figure:
    """The figure that the axes are in."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def colour(index: int) -> str:
    """The colour of the checkpoint at this place in the report, the same in every plot."""
    return PALETTE[index % len(PALETTE)]


def dash(index: int) -> object:
    """The line style that tells checkpoints of one colour apart."""
    return DASHES[index // len(PALETTE) % len(DASHES)]


def tint(ink: str) -> tuple[float, float, float]:
    """A light shade of a colour, opaque, so that grid lines do not show through."""
    red, green, blue = (1 - (1 - int(ink[at : at + 2], 16) / 255) * 0.33 for at in (1, 3, 5))
    return red, green, blue


def short(name: str) -> str:
    """A checkpoint's name, the middle left out when it is long: beginning and end tell names apart."""
    text = terminal(name)
    if len(text) <= LONGEST_NAME:
        return text
    half = (LONGEST_NAME - 1) // 2
    return f"{text[:half].rstrip('.-_ ')}…{text[-half:].lstrip('.-_ ')}"


def spread(
    places: Sequence[float],
    sizes: Sequence[float],
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float]:
    """Centres for labels of these ``sizes``: moved from ``places`` as little as keeps them apart.

    All stay within ``low`` and ``high`` as far as there is room. The least-squares answer: isotonic
    regression of the places with the room before each label taken out.
    """
    order = sorted(range(len(places)), key=lambda index: (places[index], index))
    room: list[float] = []  # from the first label's centre to this one's, when all touch
    for rank, index in enumerate(order):
        before = order[rank - 1] if rank else index
        room.append((room[-1] if room else 0.0) + (sizes[before] + sizes[index]) / 2 * bool(rank))
    blocks: list[list[float]] = []  # the sum of the places wished for, and how many labels
    for index, taken in zip(order, room, strict=True):
        blocks.append([places[index] - taken, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, size = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + size]
    firsts = [total / size for total, size in blocks for _ in range(int(size))]
    moved = [0.0] * len(places)
    for index, taken, first in zip(order, room, firsts, strict=True):
        moved[index] = max(min(first, high - room[-1]), low) + taken
    return moved


def quiet_grid(axes: Axes, axis: Literal["both", "x", "y"]) -> None:
    """Faint lines to read values by, on one axis only."""
    axes.grid(axis=axis, color=GRID, linewidth=0.7)
    axes.tick_params(length=0 if axis == "both" else 3, width=0.7)

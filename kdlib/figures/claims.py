"""The audit of the paper's claims as a printed table."""

from textwrap import fill

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from kdlib.claims.index import interval_of
from kdlib.figures.style import TWO_COLUMNS, canvas, recipe

#: Verdict -> symbol and color; the symbol alone tells them apart.
VERDICT_LOOKS = {
    "holds": ("✓", "#009E73"),
    "does not hold": ("✗", "#D55E00"),
    "not decided": ("?", "#7A6A00"),
    "not measured": ("–", "#888888"),
}
_LINE = 0.125  # inch per line of text
_FOOT = 1.8  # lines of the note
_COLUMNS = {
    "section": 0.005, "claim": 0.07, "claimed": 0.482, "paper": 0.562, "ours": 0.618,
    "verdict": 0.78, "at floor": 0.922,
}  # fmt: skip
_NOTE = (
    "Holds: the 95 % interval over training runs lies wholly in the claimed range. Does not hold: "
    "wholly outside,\nor one size alone contradicts the claim. At floor: twice the epochs would "
    "hardly lower the errors compared."
)
#: Characters in a line of a statement.
_WRAP = 60


@recipe(
    "statement",
    "section",
    "paper_value",
    "value",
    "ci_low",
    "ci_high",
    "unit",
    "rule",
    "verdict",
    "reason",
    optional=("at_floor",),
)
def claims(ds: xr.Dataset) -> Figure:
    """Draw the table of `kdlib.claims.audit`: section, claim, range, paper's value, ours.

    The reasons are kept beside it for other tables.
    """
    statements = [fill(str(text), _WRAP) for text in ds.statement.values]
    heights = np.array([text.count("\n") + 1.55 for text in statements])
    total = (heights.sum() + 2.2 + _FOOT) * _LINE
    figure, ax = canvas(TWO_COLUMNS, total)
    ax.set(xlim=(0, 1), ylim=(heights.sum() + _FOOT, -2.2))
    ax.set_axis_off()
    for title, x in _COLUMNS.items():
        words = {"section": "§", "ours": "ours [95 %]"}.get(title, title)
        ax.text(x, -0.9, words, weight="bold", va="center")
    ax.axhline(0, color="0.2", linewidth=1)
    top = 0.0
    for k, (text, height) in enumerate(zip(statements, heights, strict=True)):
        row = ds.isel(claim=k)
        symbol, color = VERDICT_LOOKS[str(row.verdict.values)]
        ax.axhspan(top, top + height, color=color, alpha=0.10, linewidth=0)
        middle = top + height / 2
        cells = {
            "section": str(row.section.values),
            "claim": text,
            "claimed": _claimed(row),
            "paper": f"{float(row.paper_value):.3g}" if np.isfinite(row.paper_value) else "–",
            "ours": interval_of(row).text(str(row.unit.values)).replace("-", "−"),
            "at floor": str(row.at_floor.values) if "at_floor" in row else "",
        }
        for column, words in cells.items():
            ax.text(_COLUMNS[column], middle, words, va="center", fontsize=6.3, linespacing=1.05)
        verdict = f"{symbol}  {row.verdict.values}"
        ax.text(
            _COLUMNS["verdict"],
            middle,
            verdict,
            va="center",
            fontsize=7,
            color=color,
            weight="bold",
        )
        ax.axhline(top + height, color="0.8", linewidth=0.4)
        top += height
    ax.text(0.005, top + 1.1, _NOTE, va="center", fontsize=6.3)
    return figure


def _claimed(row: xr.Dataset) -> str:
    """Claimed range, short."""
    text = str(row.rule.values)
    for words, symbol in (("interval below ", "< "), ("interval above ", "> ")):
        text = text.replace(words, symbol)
    return text.removeprefix("interval within ").replace(" to ", "–")

"""The index of a run: from each claim to its verdict, its figure and the notebook that draws it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from kdlib.claims.paper import claims
from kdlib.claims.statistics import LEVEL, Interval

__all__ = ["headlines", "index", "tally"]

_COLUMNS = ("claim", "section", "paper", "ours [95 %]", "verdict")
#: The claims to read first.
HEADLINES = (
    "pareto_time_control",
    "force_control",
    "force_matched_control",
    "energy_control",
    "rdf_control",
    "learning_control",
    "born_again_force_teacher",
    "born_again_force_control",
)
#: Verdict -> what it says about one claim and about several.
_VERBS = {
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "not decided": ("is not decided", "are not decided"),
    "not measured": ("is not measured", "are not measured"),
}


def index(table: xr.Dataset, notebooks: Mapping[str, str]) -> str:
    """Return a Markdown table with a row for each claim and links to its figure and notebook.

    Parameters
    ----------
    table
        Result of `kdlib.claims.audit`.
    notebooks
        File that a run writes, e.g. ``figures/rdf.svg`` -> name of the notebook that writes it.
        Links lead from a folder of notebooks to others in it, and to the folder ``figures`` beside.
    """
    figures = {claim.name: claim.figure for claim in claims()}
    rows = [_COLUMNS + ("figure", "notebook")]
    for row in _rows(table):
        figure = f"figures/{figures[str(row.claim.values)]}.svg"
        maker = notebooks[figure]
        rows.append((
            *_cells(row),
            f"[{figures[str(row.claim.values)]}](../{figure})",
            f"[{maker.partition('_')[0]}]({maker}.ipynb)",
        ))  # fmt: skip
    return markdown(rows)


def headlines(table: xr.Dataset) -> str:
    """Return a Markdown table of the :data:`HEADLINES` of an audit, or of its figure's data."""
    rows = _rows(table.sel(claim=list(HEADLINES)))
    return markdown([(*_COLUMNS, "why"), *((*_cells(row), _why(row)) for row in rows)])


def _rows(table: xr.Dataset) -> Iterator[xr.Dataset]:
    return (table.isel(claim=k) for k in range(table.sizes["claim"]))


def _cells(row: xr.Dataset) -> tuple[str, ...]:
    return (
        str(row.statement.values),
        str(row.section.values),
        f"{float(row.paper_value):.3g}" if np.isfinite(row.paper_value) else "–",
        unbroken(interval_of(row).text(str(row.unit.values))),
        unbroken(f"**{row.verdict.values}**"),
    )


def _why(row: xr.Dataset) -> str:
    """What the reason says beyond the runs that were compared."""
    compared, _, rest = str(row.reason.values).partition("; ")
    return rest or compared


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of rows, the first of which is its head."""
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *others])


def tally(table: xr.Dataset) -> str:
    """Say how many claims of the paper, and of ours, have which verdict, and what chance does."""
    ours = table.section.values == "ours"
    told = f"Of the paper's {np.sum(~ours)} claims, {_counts(table.verdict.values[~ours])}"
    if ours.any():
        told += f"; of our {np.sum(ours)} controls, {_counts(table.verdict.values[ours])}"
    n = int(np.isfinite(table.ci_low).sum())
    return (
        f"{told}. These are {n} comparisons at {LEVEL:.0%}: about {(1 - LEVEL) * n:.1f} intervals "
        "miss the true value by chance."
    )


def _counts(verdicts: np.ndarray) -> str:
    numbers = {verdict: int(np.sum(verdicts == verdict)) for verdict in _VERBS}
    return ", ".join(f"{n} {_VERBS[verdict][n != 1]}" for verdict, n in numbers.items() if n)


def interval_of(row: xr.Dataset) -> Interval:
    """Interval of one claim of an audit, which does not tell the number of runs."""
    return Interval(*(float(row[name]) for name in ("value", "ci_low", "ci_high")), 0)


def unbroken(text: str) -> str:
    """Text whose words stay in one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")

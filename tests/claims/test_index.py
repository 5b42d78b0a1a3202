"""The index leads from every claim to its figure and its notebook, and counts the verdicts."""

from pathlib import Path

import pytest
import xarray as xr

from kdlib import claims, figures, results
from kdlib.claims.index import HEADLINES

MAKERS = {f"figures/{name}.svg": f"07_{name}" for name in figures.REDRAW}


def test_every_claim_has_a_figure():
    """The figure of a claim is one that kdlib draws."""
    assert {claim.figure for claim in claims.claims()} <= set(figures.REDRAW)


def test_a_row_for_each_claim_leads_to_its_figure_and_notebook(planted):
    """The verdict of the audit stands beside the links, and a missing interval is left out."""
    table = claims.audit(planted())
    _, _, *rows = claims.index(table, MAKERS).splitlines()
    assert len(rows) == table.sizes["claim"]
    for claim, row, verdict in zip(claims.claims(), rows, table.verdict.values, strict=True):
        cells = row.strip("| ").split(" | ")
        assert cells[:2] == [claim.statement, claim.section]
        assert cells[4].replace("\N{NO-BREAK SPACE}", " ") == f"**{verdict}**"
        assert cells[5] == f"[{claim.figure}](../figures/{claim.figure}.svg)"
        assert cells[6] == f"[07](07_{claim.figure}.ipynb)"
    unmeasured = claims.audit({"data": planted()["data"]})
    assert all(" | – | **" in row for row in claims.index(unmeasured, MAKERS).splitlines()[2:])


def test_verdicts_are_counted_apart_for_the_paper_and_for_us():
    """Each claim is counted once, in the singular where it is alone."""
    table = xr.Dataset({
        "section": ("claim", ["3.1", "3.1", "3.2", "ours"]),
        "verdict": ("claim", ["holds", "holds", "not decided", "does not hold"]),
        "ci_low": ("claim", [0.1, 0.2, float("nan"), 1.2]),
    })  # fmt: skip
    assert claims.tally(table) == (
        "Of the paper's 3 claims, 2 hold, 1 is not decided; of our 1 controls, 1 does not hold. "
        "These are 3 comparisons at 95%: about 0.2 intervals miss the true value by chance."
    )


def test_headlines_are_rows_of_the_index(planted):
    """The claims to read first, with numbers, verdicts and what the audit's reasons add to them."""
    table = claims.audit(planted())
    names = [claim.name for claim in claims.claims()]
    every = claims.index(table, MAKERS).splitlines()[2:]
    _, _, *rows = claims.headlines(table).splitlines()
    assert len(rows) == len(HEADLINES)
    for name, row in zip(HEADLINES, rows, strict=True):
        *cells, why = row.strip("| ").split(" | ")
        assert every[names.index(name)].startswith(f"| {' | '.join(cells)} |")
        reason = str(table.reason.sel(claim=name).values)
        assert reason.endswith(why)
        assert why == reason or reason.count("; ") == why.count("; ") + 1


def test_readme_shows_the_stored_verdicts(project: Path):
    """Its first table, and the count of all verdicts, are those of the file beside the figure."""
    path = project / "figures" / "claims.nc"
    if not path.is_file():
        pytest.skip("figures are not beside the tests")
    table, text = results.load(path), (project / "README.md").read_text()
    assert claims.headlines(table) in text
    assert claims.tally(table) in text

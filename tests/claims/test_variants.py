"""Students against controls under several protocols."""

from pathlib import Path

import numpy as np
import pytest

from kdlib import claims, results
from kdlib.claims import variants
from kdlib.claims.statistics import ratio


def test_each_row_compares_one_architecture_under_one_protocol(drawn_from):
    """The second protocol, with planted errors a quarter larger, shows them in every ratio."""
    ds = drawn_from["robustness"]
    sizes = ds.architecture.values.tolist()
    assert variants.cells(ds) == [(v, size) for v in ds.variant.values for size in sizes]
    for size in sizes:
        for other in variants.OTHERS:
            first, second = (variants.compared(ds, v, size, other) for v in ds.variant.values)
            assert second.value == pytest.approx(1.25 * first.value)
            run = ds.force_rmse.sel(variant="as chosen", architecture=size, split="test")
            expected = ratio(run.sel(role="student").values, run.sel(role=other).values)
            np.testing.assert_allclose(first, expected)


def test_what_a_protocol_lacks_has_no_row(drawn_from):
    """Neither a size without students, nor one without anybody to compare them with."""
    ds = drawn_from["robustness"].copy(deep=True)
    first, second, last = ds.architecture.values.tolist()
    ds.force_rmse.loc[{"variant": "as chosen", "architecture": first, "role": "student"}] = np.nan
    others = list(variants.OTHERS)
    ds.force_rmse.loc[{"variant": "as chosen", "architecture": last, "role": others}] = np.nan
    assert [size for v, size in variants.cells(ds) if v == "as chosen"] == [second]


def test_the_table_has_the_numbers_of_the_figure(drawn_from):
    """One row for each protocol and size; both ratios with their intervals."""
    ds = drawn_from["robustness"]
    head, _, *rows = claims.variants_table(ds).splitlines()
    assert "over control [95 %] | over matched control [95 %]" in head
    assert len(rows) == len(variants.cells(ds))
    value, low, high, _ = variants.compared(ds, *variants.cells(ds)[0], "control")
    told = f"{value:.3f} [{low:.3f}, {high:.3f}]".replace(" ", "\N{NO-BREAK SPACE}")
    assert told in rows[0]


def test_readme_shows_the_stored_ratios(project: Path):
    """Its second table is that of the file beside the figure."""
    path = project / "figures" / "robustness.nc"
    if not path.is_file():
        pytest.skip("figures are not beside the tests")
    assert claims.variants_table(results.load(path)) in (project / "README.md").read_text()

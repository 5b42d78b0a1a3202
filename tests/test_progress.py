"""Progress bars: shown where there is something to do."""

import pytest

from kdlib import progress


@pytest.mark.parametrize("total", [0, 2])
def test_a_bar_over_nothing_is_not_drawn(capsys, total):
    """Work that was done before leaves no empty bars in a report."""
    with progress.TqdmReporter().bar(total, "labels", "frame") as bar:
        for _ in range(total):
            bar.update()
    assert ("labels" in capsys.readouterr().err) == (total > 0)

"""The command of the reference data and its notebook."""

from pathlib import Path

import pytest

from al_pbe.__main__ import main
from kdlib import datasets, results


@pytest.mark.parametrize("wanted", ["10-20", "x:3", "3:y"])
def test_ranges_of_frames_are_read_strictly(wanted: str, capsys: pytest.CaptureFixture) -> None:
    """An invalid range of frames is refused before any calculation."""
    with pytest.raises(SystemExit) as stopped:
        main(["label", wanted])
    assert stopped.value.code == 2
    assert wanted in capsys.readouterr().err


@pytest.mark.slow
def test_notebook_holds_every_shipped_frame_once(tmp_path: Path) -> None:
    """Every frame of the shipped data, in cells of 15 to 108 atoms, sampled below 5000 K."""
    assert main(["notebook", "--results", str(tmp_path)]) == 0
    ds = results.load(tmp_path / "reference.nc")
    shipped = [int(atoms.info["frame"]) for atoms in datasets.load("al-pbe")]
    assert sorted(ds["frame"].values.tolist()) == sorted(shipped)
    assert ds["atoms"].min() >= 15
    assert ds["atoms"].max() <= 108
    assert ds["temperature_K"].max() < 5000
    assert (tmp_path / "figures" / "reference.png").stat().st_size > 0

"""The figure of the data where density or temperature are not known."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from matplotlib.markers import MarkerStyle

from kdlib import datasets, figures
from kdlib.figures.style import phase_look
from kdlib.results import schema


def labeled(atoms: Atoms, frame: int) -> Atoms:
    """A frame of a dataset, without forces."""
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((len(atoms), 3)))
    atoms.info["frame"] = frame
    return atoms


@pytest.fixture
def alloys() -> list[Atoms]:
    """Ordered CuAu cells of five densities, and one of pure copper."""
    frames = []
    for k, a in enumerate((3.7, 3.8, 3.9, 4.0, 4.1)):
        atoms = bulk("Cu", a=a, cubic=True)
        atoms.symbols[:2] = "Au"
        frames.append(labeled(atoms, k))
    return [*frames, labeled(bulk("Cu", a=3.6, cubic=True), 9)]


@pytest.fixture
def molecules() -> list[Atoms]:
    """Isolated dimers."""
    return [labeled(Atoms("CuAu", [[0, 0, 0], [d, 0, 0]]), k) for k, d in enumerate((2.3, 2.5))]


def test_figure_of_the_data_without_density_or_temperature(molecules, alloys, tmp_path: Path):
    """Molecules have neither: sizes take the place of both, and every point is drawn."""
    for frames in (molecules, alloys):
        split = datasets.Split(
            *(np.arange(k, k + 1) for k in (0, 1)),
            test=np.arange(2, len(frames)),
            transfer=np.arange(0),
            seed=0,
            fractions=(0.8, 0.1, 0.1),
            sha256="",
        )
        ds = schema.describe(datasets.coverage(frames, split), "data")
        schema.validate(ds, "data")
        assert "temperature" not in ds
        figure = figures.data(ds)
        drawn = figure.axes[0].collections[0].get_offsets()
        assert np.isfinite(drawn).all()
        assert len(drawn) == len(frames)


def test_points_of_any_phase_can_be_seen():
    """Points have no edges, so a marker without a face would be invisible; looks keep to a name."""
    for phase in ("unknown", "cell", "molecule", "surface", "fcc"):
        look = phase_look(phase)
        assert look.marker in MarkerStyle.filled_markers
        assert look == phase_look(phase)
    assert phase_look("cell").color != phase_look("molecule").color

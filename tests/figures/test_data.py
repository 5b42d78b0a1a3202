"""The figure of the data where density or temperature are not known."""

from pathlib import Path

import numpy as np
from matplotlib.markers import MarkerStyle

from kdlib import datasets, figures
from kdlib.figures.style import phase_look
from kdlib.results import schema


def test_figure_of_the_data_without_density_or_temperature(molecules, alloys, tmp_path: Path):
    """Molecules have neither: sizes take the place of both, and every point is drawn."""
    for frames in (molecules, alloys):
        split = datasets.Split(
            *(np.arange(k, k + 1) for k in (0, 1)),
            test=np.arange(2, len(frames)),
            compressed=np.arange(0),
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

"""What MD starts from when the material is not aluminium, and what analyses then leave out."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from matplotlib.markers import MarkerStyle

from kdlib import datasets, figures
from kdlib.figures.style import phase_look
from kdlib.geometry import rdf
from kdlib.md import liquid
from kdlib.md.dynamics import MeltProtocol, kinetic_temperature
from kdlib.results import schema
from kdlib.training import accuracy

MELT = MeltProtocol(melt_steps=5, quench_steps=5, equilibration_steps=5)


def labelled(atoms: Atoms, frame: int) -> Atoms:
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
        frames.append(labelled(atoms, k))
    return [*frames, labelled(bulk("Cu", a=3.6, cubic=True), 9)]


@pytest.fixture
def molecules() -> list[Atoms]:
    """Isolated dimers."""
    return [labelled(Atoms("CuAu", [[0, 0, 0], [d, 0, 0]]), k) for k, d in enumerate((2.3, 2.5))]


def test_other_materials_start_from_copies_of_a_typical_frame(alloys):
    """The frame of median volume with all species, at its own density, at the temperature asked."""
    atoms = liquid.configuration(alloys, 100, MELT)
    assert len(atoms) == 100
    assert atoms.get_volume() / len(atoms) == pytest.approx(3.9**3 / 4)
    assert kinetic_temperature(atoms) == pytest.approx(MELT.temperature)
    assert "not aluminium" in atoms.info["origin"]
    assert "25 copies of frame 2, 100 atoms" in atoms.info["origin"]


def test_aluminium_is_melted_at_its_experimental_density():
    """Nothing changes for aluminium: 4 n^3 atoms, whatever the frames' own density."""
    frames = [labelled(bulk("Al", a=3.5, cubic=True), 0)]
    atoms = liquid.configuration(frames, 108, MELT)
    assert len(atoms) == 108
    assert len(atoms) / atoms.get_volume() == pytest.approx(liquid.density(MELT.temperature))
    assert atoms.info["origin"].startswith("liquid aluminium at 1200 K")


def test_molecules_are_put_into_boxes(molecules):
    """Copies of a molecule stay four Angstrom apart, or further."""
    atoms = liquid.configuration(molecules, 16, MELT)
    assert len(atoms) == 16
    assert atoms.pbc.all()
    distances = atoms.get_all_distances(mic=True)
    distances[distances < 1e-9] = np.inf
    assert sorted(set(distances.min(axis=1).round(6))) == [2.5]
    between = distances[distances > 2.6]
    assert between.min() == pytest.approx(4.0)


def test_sizes_are_multiples_of_the_cell():
    """Nearest multiples; those that fit stay, and different sizes stay different."""
    sizes = {"stock": [108, 432], "fused": [216, 108, 6912]}
    assert liquid.fitting(sizes, 108) == {"stock": [108, 432], "fused": [108, 216, 6912]}
    assert liquid.fitting({"fused": [10, 20, 100]}, 40) == {"fused": [40, 80, 120]}


def test_coordination_of_close_packing_is_twelve_in_any_material(alloys, emt_frames):
    """The first shell follows from the distances of nearest neighbours; aluminium keeps 3.9."""
    assert accuracy.first_shell_of(emt_frames) == accuracy.FIRST_SHELL
    for atoms in alloys:
        radius = accuracy.first_shell_of([atoms, alloys[-1], atoms])
        assert set(accuracy._coordination(atoms, radius)) == {12}


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


def test_config_type_stands_for_a_phase(alloys):
    """Many datasets sort their frames by `config_type`."""
    alloys[0].info["config_type"] = "surface"
    assert datasets.phase_of(alloys[0]) == "surface"
    assert datasets.phase_of(alloys[1]) == "unknown"


def test_experiment_is_no_yardstick_for_other_materials():
    """Without it, the errors against teachers are what they were, and no experiment is stored."""
    from kdlib.md import structure

    flat = xr.DataArray(np.ones(160), {"r": rdf.centres(8.0, 160)}, ("r",))
    pieces = flat + xr.DataArray([0.1, -0.1], dims="piece")
    labels = {"role": ["teacher", "student"], "architecture": ["4-5-1"], "seed": [0]}
    ds = xr.Dataset({"g": flat, "g_piece": pieces, "temperature": 300.0}).expand_dims(labels)
    ds = ds.assign_coords(n_parameters=("architecture", [10]))
    protocol = structure.StructureProtocol(n_pieces=2)
    with_it, without = (structure.compare(ds, protocol, flag) for flag in (True, False))
    xr.testing.assert_equal(with_it.rdf_error, without.rdf_error)
    assert with_it.rdf_error_experiment.notnull().all()
    assert without.rdf_error_experiment.isnull().all()
    assert "g_experiment" in with_it
    assert "g_experiment" not in without
    assert not [name for name in without.attrs if "experiment" in name]
    schema.validate(schema.describe(without, "rdf"), "rdf")

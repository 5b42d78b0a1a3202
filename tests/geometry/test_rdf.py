"""g(r): ideal gas, fcc shells, invariances, errors with a known value, the experiment."""

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk

from kdlib.errors import InputError
from kdlib.geometry import rdf

TRICLINIC = np.array([[9.0, 0.0, 0.0], [2.0, 8.5, 0.0], [-1.5, 2.5, 9.5]])


def ideal_gas(n_samples: int, n_atoms: int, cell: np.ndarray, seed: int = 0) -> np.ndarray:
    """Independent uniform positions, (n_samples, n_atoms, 3)."""
    return np.random.default_rng(seed).random((n_samples, n_atoms, 3)) @ cell


def on_grid(g: np.ndarray, step: float = 0.05) -> xr.DataArray:
    """Values of a g(r) on equal bins from 0."""
    return xr.DataArray(g, {"r": step * (np.arange(len(g)) + 0.5)}, ("r",))


@pytest.mark.parametrize("cell", [np.eye(3) * 10.0, TRICLINIC], ids=["cubic", "triclinic"])
def test_ideal_gas_has_a_plateau_below_one(cell):
    """Ten atoms without interaction: g = (N - 1)/N = 0.9, beyond half the cell too."""
    g = rdf.rdf(ideal_gas(4000, 10, cell), cell, r_max=8.0, n_bins=16)
    # The far bins hold more than 1e5 pairs each: a standard error below 0.4 %.
    np.testing.assert_allclose(g.sel(r=slice(4.0, None)), 0.9, rtol=0.012)


@pytest.mark.parametrize(
    "crystal",
    [
        bulk("Al", a=4.05),
        bulk("Al", a=4.05, cubic=True),
        bulk("Al", a=4.05, cubic=True).repeat(2),
    ],
    ids=["one atom", "cubic cell", "supercell"],
)
def test_fcc_shells(crystal):
    """In fcc, 12, 6 and 24 neighbors lie at d, sqrt(2) d and sqrt(3) d, and none between."""
    g = rdf.rdf(crystal.positions, crystal.cell.array, r_max=5.5, n_bins=550)
    d = 4.05 / np.sqrt(2)
    cuts = d * np.array([1.2, 1.6, 1.9])
    numbers = np.diff([0.0] + [rdf.coordination(g, cut) for cut in cuts])
    np.testing.assert_allclose(numbers, [12, 6, 24], rtol=1e-9)
    occupied = g.r.values[g.values > 0]
    shells = d * np.sqrt([1, 2, 3])
    assert np.abs(occupied[:, None] - shells).min(axis=1).max() < 0.01


def test_translation_and_wrapping_change_nothing():
    """Moving all atoms, or single atoms by cell vectors, leaves every count as it is."""
    positions = ideal_gas(3, 30, TRICLINIC)
    reference = rdf.rdf(positions, TRICLINIC)
    hops = np.random.default_rng(1).integers(-2, 3, positions.shape) @ TRICLINIC
    for moved in (positions + [1.3, -40.7, 5.0], positions + hops):
        xr.testing.assert_allclose(rdf.rdf(moved, TRICLINIC), reference, rtol=0, atol=1e-12)


def test_supercell_has_the_same_g():
    """g(r) of a periodic system does not depend on the cell that describes it."""
    atoms = Atoms("Al5", ideal_gas(1, 5, TRICLINIC)[0], cell=TRICLINIC, pbc=True)
    large = atoms.repeat((2, 1, 3))
    g = rdf.rdf(atoms.positions, atoms.cell.array, r_max=11.9)
    np.testing.assert_allclose(
        rdf.rdf(large.positions, large.cell.array, r_max=11.9), g, rtol=1e-12, atol=1e-12
    )


def test_error_of_identical_g_is_zero():
    """No difference, no error."""
    g = rdf.rdf(ideal_gas(2, 30, TRICLINIC), TRICLINIC)
    assert rdf.rdf_error(g, g) == 0.0


def test_error_of_a_shifted_g_is_known():
    """For g = r, a shift by 0.1 Angstrom makes an error of 0.1 x (8 - 2) = 0.6 Angstrom."""
    g = on_grid(0.05 * (np.arange(160) + 0.5))
    assert rdf.rdf_error(g - 0.1, g) == pytest.approx(0.6, rel=1e-12)
    assert rdf.rdf_error(g + 0.1, g) == pytest.approx(0.6, rel=1e-12)
    assert rdf.rdf_error(g - 0.1, g, r_min=2.0, r_max=4.0) == pytest.approx(0.2, rel=1e-12)


def test_reference_on_another_grid_is_interpolated():
    """A straight line stays the same on any grid."""
    g = on_grid(0.05 * (np.arange(160) + 0.5))
    r = np.arange(0.0, 10.0, 0.3)
    reference = xr.DataArray(r, {"r": r}, ("r",))
    assert rdf.rdf_error(g, reference) == pytest.approx(0.0, abs=1e-12)
    assert rdf.rdf_error(g, reference - 0.2) == pytest.approx(1.2, rel=1e-9)


def test_error_needs_the_whole_range():
    """A g(r) that ends at 6 Angstrom cannot be compared up to 8."""
    g = on_grid(np.ones(160))
    with pytest.raises(InputError, match="must cover 2 to 8"):
        rdf.rdf_error(g.sel(r=slice(0, 6)), g)
    with pytest.raises(InputError, match="must cover 2 to 8"):
        rdf.rdf_error(g, g.sel(r=slice(3, None)))
    with pytest.raises(InputError, match="not finite"):
        rdf.rdf_error(g, g.where(g.r < 7))


def test_noise_floor_of_gaussian_noise():
    """Independent noise of width s gives E|a - b| = 2 s / sqrt(pi) at every r."""
    rng = np.random.default_rng(0)
    parts = [on_grid(1 + rng.normal(scale=0.1, size=160)) for _ in range(8)]
    expected = 6.0 * 0.2 / np.sqrt(np.pi)
    assert rdf.noise_floor(parts) == pytest.approx(expected, rel=0.05)
    assert rdf.noise_floor(parts, parts_per_run=4) == pytest.approx(expected / 2, rel=0.05)


def test_noise_floor_predicts_the_error_between_runs():
    """The floor from quarters of one run is the error between whole runs of the same gas."""
    cell = np.eye(3) * 12.0
    runs = [ideal_gas(80, 30, cell, seed) for seed in range(6)]
    whole = [rdf.rdf(run, cell) for run in runs]
    floor = rdf.noise_floor(rdf.pieces(runs[0], cell, 4), parts_per_run=4)
    assert floor == pytest.approx(rdf.noise_floor(whole), rel=0.15)


def test_pieces_make_up_the_run():
    """g(r) is linear in the samples: the mean over equal pieces is that of the run."""
    run = ideal_gas(13, 20, TRICLINIC)
    mean = sum(rdf.pieces(run, TRICLINIC, 4)) / 4
    np.testing.assert_allclose(mean, rdf.rdf(run[1:], TRICLINIC), rtol=1e-12, atol=1e-12)


def test_experiment():
    """At 1198 K the main peak is 2.52 at 2.77 Angstrom, the minimum 0.73 at 3.90; with a source."""
    g = rdf.experiment()
    assert float(g.max()) == pytest.approx(2.52, abs=0.015)
    assert float(g.idxmax()) == pytest.approx(2.77, abs=0.03)
    well = g.sel(r=slice(3.3, 4.6))
    assert float(well.min()) == pytest.approx(0.73, abs=0.01)
    assert float(well.idxmin()) == pytest.approx(3.90, abs=0.051)
    assert "lanl/hippynn" in g.attrs["source"]
    assert float(rdf.experiment(1023).max()) > float(g.max())
    with pytest.raises(InputError, match="no g\\(r\\) at 300 K; there are 1023, 1198 K"):
        rdf.experiment(300)


@pytest.mark.parametrize(
    ("positions", "cell", "message"),
    [
        (np.zeros((4, 2)), np.eye(3), "shape"),
        (np.full((3, 4, 3), np.nan), np.eye(3), "sample 0 are not finite"),
        (np.zeros((4, 3)), np.zeros((3, 3)), "three independent vectors"),
    ],
)
def test_bad_input(positions, cell, message):
    """Input without a g(r) is refused with the reason."""
    with pytest.raises(InputError, match=message):
        rdf.rdf(positions, cell)

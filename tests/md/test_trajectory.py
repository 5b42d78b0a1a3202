"""Motion of atoms: displacements and diffusion with a known value, and what counts as liquid."""

import numpy as np
import pytest
import xarray as xr

from kdlib.md import dynamics
from kdlib.md.dynamics import LiquidCriterion


def run_of(positions: np.ndarray, step: float, mass: np.ndarray | None = None) -> xr.Dataset:
    """Samples every ``step`` fs as a run."""
    time = step * np.arange(1, len(positions) + 1)
    mass = np.ones(positions.shape[1]) if mass is None else mass
    dims = ("time", "atom", "xyz")
    return xr.Dataset({"positions": (dims, positions), "mass": ("atom", mass)}, {"time": time})


def random_walk(diffusion: float, step: float, n_atoms: int = 400, n: int = 200) -> np.ndarray:
    """Independent Gaussian steps of variance 2 D dt along each axis."""
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(scale=np.sqrt(2 * diffusion * step), size=(n, n_atoms, 3)), axis=0)


def test_free_flight():
    """Atoms that fly apart with speed v have MSD = v^2 t^2; a common motion does not count."""
    direction = np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    positions = 0.01 * np.arange(20)[:, None, None] * direction * 10.0
    drifting = positions + 5.0 * np.arange(20)[:, None, None]
    for samples in (positions, drifting):
        msd = dynamics.mean_squared_displacement(run_of(samples, 10.0))
        np.testing.assert_allclose(msd, (0.01 * msd.lag) ** 2, atol=1e-9)


def test_centre_of_mass_is_weighted():
    """A light atom that circles a heavy one: the centre of mass is the heavy one's place."""
    positions = np.zeros((10, 2, 3))
    positions[:, 0, 0] = np.arange(10)
    msd = dynamics.mean_squared_displacement(run_of(positions, 1.0, np.array([1e-9, 1.0])))
    np.testing.assert_allclose(msd, msd.lag**2 / 2, rtol=1e-6)


def test_diffusion_of_a_random_walk():
    """D of a walk with variance 2 D dt is found again."""
    msd = dynamics.mean_squared_displacement(run_of(random_walk(9e-4, 20.0), 20.0))
    # 400 walkers over 100 independent steps of lag 1: about 2 % on the slope at long lags.
    assert dynamics.diffusion(msd) == pytest.approx(9e-4, rel=0.06)
    assert dynamics.is_liquid(msd)


def test_crystal_is_not_liquid():
    """Atoms that shake about their sites at the Lindemann limit do not make a liquid."""
    shaking = np.random.default_rng(0).normal(scale=0.43 / np.sqrt(3), size=(200, 108, 3))
    msd = dynamics.mean_squared_displacement(run_of(shaking, 20.0))
    assert not dynamics.is_liquid(msd)
    assert float(np.sqrt(msd[-1])) < LiquidCriterion().min_displacement


def test_slow_creep_is_not_liquid():
    """Diffusion below a tenth of the liquid's is not enough, however far the atoms come."""
    walk = random_walk(5e-5, 1000.0)
    msd = dynamics.mean_squared_displacement(run_of(walk, 1000.0))
    assert float(np.sqrt(msd[-1])) > LiquidCriterion().min_displacement
    assert not dynamics.is_liquid(msd)


def test_liquid_must_leave_its_places():
    """Atoms that diffuse, but came less than 1 Angstrom far, may still sit in their cages."""
    msd = dynamics.mean_squared_displacement(run_of(random_walk(2e-4, 20.0, n=70), 20.0))
    assert dynamics.diffusion(msd) > LiquidCriterion().min_diffusion
    assert not dynamics.is_liquid(msd)


def test_short_run_has_no_diffusion():
    """A run shorter than the ballistic time says nothing about diffusion."""
    msd = dynamics.mean_squared_displacement(run_of(random_walk(9e-4, 20.0, n=10), 20.0))
    assert np.isnan(dynamics.diffusion(msd))
    assert not dynamics.is_liquid(msd)

"""The liquid of many models: one start, errors against the right teacher, failures."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from ase.calculators.emt import EMT

from kdlib import hipnn, results
from kdlib.errors import InputError
from kdlib.geometry import rdf
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.md import liquid, structure
from kdlib.md.dynamics import MeltProtocol
from kdlib.md.liquid import starting_liquid
from kdlib.md.structure import LiquidCriterion, StructureProtocol
from kdlib.results import schema

SHORT = StructureProtocol(
    equilibration_steps=20, n_steps=80, sample_every=10, n_pieces=2, device="cpu"
)


CONFIG = HipnnConfig(4, 5, 1)


class Counted(ThreadPoolExecutor):
    """Executor that counts what it is asked to do."""

    n_jobs = 0

    def submit(self, *args: object, **kwargs: object):
        """Count."""
        self.n_jobs += 1
        return super().submit(*args, **kwargs)


def g_of(height: float, n_pieces: int = 2) -> xr.Dataset:
    """A liquid with g = height everywhere, whose pieces lie 0.1 above and below."""
    flat = xr.DataArray(np.full(160, height), {"r": rdf.centers(8.0, 160)}, ("r",))
    around = 0.1 * (-1.0) ** np.arange(n_pieces)
    pieces = flat + xr.DataArray(around, dims="piece")
    scalars = {"temperature": 1200.0, "diffusion": 9e-4, "is_liquid": 1.0}
    return xr.Dataset({"g": flat, "g_piece": pieces, **scalars})


def grid_of(heights: dict) -> xr.Dataset:
    """Liquids over role, architecture and seed."""
    model = Potential(hipnn.build(HipnnConfig(4, 5, 1)))
    return results.combine(
        structure._cell(g_of(height), key, model) for key, height in heights.items()
    )


def test_errors_are_taken_against_the_right_teacher():
    """Flat g(r) make every error 6 Angstrom times a difference of heights."""
    ds = grid_of(
        {
            ("teacher", "4-5-1", 0): 1.0,
            ("teacher", "4-5-1", 1): 1.5,
            ("student", "2-5-1", 0): 1.2,
            ("student", "2-5-1", 1): 1.2,
        }
    )
    compared = structure.compare(ds, StructureProtocol(n_pieces=2))
    student = compared.sel(role="student", architecture="2-5-1")
    np.testing.assert_allclose(student.rdf_error, [6 * 0.2, 6 * 0.3])
    np.testing.assert_allclose(student.rdf_error_other_teachers, [6 * 0.3, 6 * 0.2])
    teacher = compared.sel(role="teacher", architecture="4-5-1")
    assert teacher.rdf_error.isnull().all()
    np.testing.assert_allclose(teacher.rdf_error_other_teachers, [3.0, 3.0])
    experiment = rdf.rdf_error(g_of(1.2).g, rdf.experiment())
    np.testing.assert_allclose(student.rdf_error_experiment, experiment)
    assert compared.rdf_floor.item() == pytest.approx(6 * 0.2 / np.sqrt(2))
    assert compared.rdf_floor_teachers.item() == pytest.approx(6 * 0.5)
    assert compared.g.sel(role="student", architecture="4-5-1").isnull().all()
    schema.validate(schema.describe(compared, "rdf"), "rdf")


def test_one_teacher_has_no_others():
    """With one seed there is no error against other teachers and no scatter between them."""
    ds = grid_of({("teacher", "4-5-1", 0): 1.0, ("control", "2-5-1", 0): 0.9})
    compared = structure.compare(ds, StructureProtocol(n_pieces=2))
    assert compared.rdf_error.sel(role="control", architecture="2-5-1").item() == pytest.approx(0.6)
    assert compared.rdf_error_other_teachers.isnull().all()
    assert "rdf_floor_teachers" not in compared


def test_errors_need_a_teacher():
    """Students alone have nothing to be compared with."""
    with pytest.raises(InputError, match="need the liquid of a teacher"):
        structure.compare(grid_of({("student", "2-5-1", 0): 1.2}))


def test_liquids_of_models(classical, monkeypatch):
    """Models run from one start, side by side; equal models and seeds give equal liquids."""
    melt = MeltProtocol(melt_steps=40, quench_steps=20, equilibration_steps=20)
    start = starting_liquid(2, melt)
    assert len(start) == 32
    assert start.calc is None
    assert len(start) / start.get_volume() == pytest.approx(liquid.density(1200))
    positions = start.positions.copy()
    keys = [("teacher", "4-5-1", 0), ("student", "4-5-1", 0)]
    monkeypatch.setattr(hipnn, "load", lambda run_dir: classical)
    with ThreadPoolExecutor(1) as pool:
        ds = structure.liquid_structures(dict.fromkeys(keys, classical), start, SHORT, pool)
    np.testing.assert_array_equal(start.positions, positions)
    assert ds.g.dims[-1] == "r"
    xr.testing.assert_equal(
        ds.g.sel(role="teacher", drop=True), ds.g.sel(role="student", drop=True)
    )
    assert float(ds.g.sel(r=slice(0, 1.8)).max()) == 0.0
    assert float(ds.g.max()) > 1.5
    compared = structure.compare(ds, SHORT)
    assert compared.rdf_error.sel(role="student").item() == 0.0
    assert compared.rdf_floor > 0


def test_liquids_that_are_kept_are_not_sampled_again(tmp_path):
    """The second time nothing runs, and the result is the same; another model is sampled.

    A model whose training was repeated, with other times in its history, is the same.
    """
    homes = {seed: tmp_path / f"{seed}" for seed in (0, 1)}
    for seed, home in homes.items():
        hipnn.save(hipnn.build(CONFIG, seed), home)
    models = {("teacher", "4-5-1", seed): hipnn.load(home) for seed, home in homes.items()}
    start, counted = liquid.liquid_aluminum(2, seed=0), Counted(1)
    with counted as pool:
        first = structure.liquid_structures(models, start, SHORT, pool, folder=tmp_path / "liquids")
        (homes[0] / "history.nc").write_text("other times")
        second = structure.liquid_structures(
            models, start, SHORT, pool, folder=tmp_path / "liquids"
        )
        assert counted.n_jobs == 2
        xr.testing.assert_equal(first, second)
        others = {**models, ("student", "4-5-1", 0): models["teacher", "4-5-1", 1]}
        structure.liquid_structures(others, start, SHORT, pool, folder=tmp_path / "liquids")
        assert counted.n_jobs == 3
        hipnn.save(hipnn.build(CONFIG, 2), homes[0])
        models["teacher", "4-5-1", 0] = hipnn.load(homes[0])
        changed = structure.liquid_structures(
            models, start, SHORT, pool, folder=tmp_path / "liquids"
        )
        assert counted.n_jobs == 4
        longer = dataclasses.replace(SHORT, n_steps=100)
        structure.liquid_structures(models, start, longer, pool, folder=tmp_path / "liquids")
        assert counted.n_jobs == 6
    assert not changed.g.sel(seed=0).equals(first.g.sel(seed=0))
    assert changed.g.sel(seed=1).equals(first.g.sel(seed=1))


def test_explosion_is_a_property_of_the_model():
    """A model that cannot hold the liquid together gives NaN and a reason, not an error."""

    class Repulsive(EMT):
        def calculate(self, *args: object) -> None:
            super().calculate(*args)
            self.results["forces"] = -50 * self.results["forces"]

    found = structure.liquid_structure(Repulsive(), liquid.liquid_aluminum(2, 0), SHORT)
    assert found.g.isnull().all()
    assert np.isnan(found.is_liquid)
    assert "step" in found.attrs["failure"]


def test_protocol_needs_samples():
    """Pieces of less than two samples are refused."""
    with pytest.raises(InputError, match="too few for 4 pieces"):
        StructureProtocol(n_steps=100, sample_every=20)


def test_experiment_is_no_yardstick_for_other_materials():
    """Without it, the errors against teachers are what they were, and no experiment is stored."""
    flat = xr.DataArray(np.ones(160), {"r": rdf.centers(8.0, 160)}, ("r",))
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
        msd = structure.mean_squared_displacement(run_of(samples, 10.0))
        np.testing.assert_allclose(msd, (0.01 * msd.lag) ** 2, atol=1e-9)


def test_center_of_mass_is_weighted():
    """A light atom that circles a heavy one: the center of mass is the heavy one's place."""
    positions = np.zeros((10, 2, 3))
    positions[:, 0, 0] = np.arange(10)
    msd = structure.mean_squared_displacement(run_of(positions, 1.0, np.array([1e-9, 1.0])))
    np.testing.assert_allclose(msd, msd.lag**2 / 2, rtol=1e-6)


def test_diffusion_of_a_random_walk():
    """D of a walk with variance 2 D dt is found again."""
    msd = structure.mean_squared_displacement(run_of(random_walk(9e-4, 20.0), 20.0))
    # 400 walkers over 100 independent steps of lag 1: about 2 % on the slope at long lags.
    assert structure.diffusion(msd) == pytest.approx(9e-4, rel=0.06)
    assert structure.is_liquid(msd)


def test_crystal_is_not_liquid():
    """Atoms that shake about their sites at the Lindemann limit do not make a liquid."""
    shaking = np.random.default_rng(0).normal(scale=0.43 / np.sqrt(3), size=(200, 108, 3))
    msd = structure.mean_squared_displacement(run_of(shaking, 20.0))
    assert not structure.is_liquid(msd)
    assert float(np.sqrt(msd[-1])) < LiquidCriterion().min_displacement


def test_slow_creep_is_not_liquid():
    """Diffusion below a tenth of the liquid's is not enough, however far the atoms come."""
    walk = random_walk(5e-5, 1000.0)
    msd = structure.mean_squared_displacement(run_of(walk, 1000.0))
    assert float(np.sqrt(msd[-1])) > LiquidCriterion().min_displacement
    assert not structure.is_liquid(msd)


def test_liquid_must_leave_its_places():
    """Atoms that diffuse but moved less than 1 Angstrom may still be in their cages."""
    msd = structure.mean_squared_displacement(run_of(random_walk(2e-4, 20.0, n=70), 20.0))
    assert structure.diffusion(msd) > LiquidCriterion().min_diffusion
    assert not structure.is_liquid(msd)


def test_short_run_has_no_diffusion():
    """A run shorter than the ballistic time says nothing about diffusion."""
    msd = structure.mean_squared_displacement(run_of(random_walk(9e-4, 20.0, n=10), 20.0))
    assert np.isnan(structure.diffusion(msd))
    assert not structure.is_liquid(msd)

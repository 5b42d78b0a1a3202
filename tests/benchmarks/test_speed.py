"""Benchmarks: timed quantities, their units and their grid."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from kdlib import benchmarks, hipnn, results
from kdlib.benchmarks import TimingProtocol
from kdlib.benchmarks.backends import contestant
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.hipnn.calculator import StockCalculator
from kdlib.md import dynamics, liquid
from kdlib.results import schema


@pytest.fixture(scope="module")
def potentials() -> list[Potential]:
    """Two small models."""
    configs = (HipnnConfig(n, 5, 1, cutoff=4.0, soft_max=3.5) for n in (4, 6))
    return [Potential(hipnn.build(config)) for config in configs]


@pytest.fixture(scope="module")
def start():
    """Four atoms to repeat."""
    return liquid.liquid_aluminum(1, seed=0)


def test_contestants(potentials):
    """The three backends are the implementations that they name."""
    assert isinstance(contestant(potentials[0], "stock"), StockCalculator)
    assert contestant(potentials[0], "hippynn").backend == "hippynn"
    assert contestant(potentials[0], "fused").backend == "fused"
    with pytest.raises(InputError, match="unknown backend 'lammps'"):
        contestant(potentials[0], "lammps")


def test_benchmarks_do_not_fall_back(potentials):
    """A model without fused kernels is not timed as "fused" while hippynn's layers run."""
    potential = Potential(hipnn.build(HipnnConfig(4, 5, 1, l_max=2, cutoff=4.0, soft_max=3.5)))
    with pytest.raises(InputError, match="backend 'fused' cannot run the model 4-5-1"):
        contestant(potential, "fused", device="cpu")


def test_time_per_step(potentials, start):
    """Every combination asked for has positive times that add up; the others are NaN."""
    sizes = {"stock": [32], "hippynn": [32], "fused": [32, 64]}
    protocol = TimingProtocol(n_steps=2, warmup_steps=1, repeats=2, device="cpu")
    ds = benchmarks.time_per_step(potentials, sizes, start, protocol)
    schema.validate(schema.describe(ds, "speed"), "speed")
    assert ds.architecture.values.tolist() == [p.config.label for p in potentials]
    assert ds.n_parameters.values.tolist() == [hipnn.n_parameters(p.module) for p in potentials]
    ran = ds.step_time.notnull().all(["architecture", "component", "repeat"])
    assert ran.sel(n_atoms=32).all()
    assert ran.sel(n_atoms=64).values.tolist() == [False, False, True]
    total = ds.step_time.sel(component="total")
    parts = ds.step_time.sel(component=["neighbor_list", "model", "integrator"])
    np.testing.assert_allclose(parts.sum("component", skipna=False), total)
    assert ds.step_time.min() > 0


def test_step_time_is_in_microseconds_per_atom_and_step(potentials, start, monkeypatch):
    """A run of 50 steps of 8 atoms that takes 0.04 s takes 100 us/atom/step, warm-up left out."""
    lengths = []

    def run(atoms, n_steps, timestep):
        lengths.append(n_steps)
        seconds = np.array([0.04, 0.01, 0.02, 0.01]) if n_steps == 50 else np.full(4, 9.0)
        return SimpleNamespace(seconds=SimpleNamespace(values=seconds))

    monkeypatch.setattr(dynamics, "nve", run)
    protocol = TimingProtocol(n_steps=50, warmup_steps=3, repeats=2)
    ds = benchmarks.time_per_step(potentials[:1], {"hippynn": [8]}, start, protocol)
    assert lengths == [3, 50, 50]
    np.testing.assert_allclose(
        ds.step_time.squeeze(["architecture", "backend", "n_atoms"]),
        np.transpose([[100, 25, 50, 25]] * 2),
    )


def test_one_model_per_architecture(potentials, start):
    """Two models of one architecture would overwrite each other."""
    with pytest.raises(InputError, match="one model per architecture"):
        benchmarks.time_per_step([potentials[0]] * 2, {"fused": [4]}, start)


def test_protocol_needs_steps():
    """A measurement without steps is refused."""
    with pytest.raises(InputError, match="must be positive"):
        TimingProtocol(repeats=0)


def test_a_benchmark_says_where_and_when_it_was_measured(tmp_path, monkeypatch):
    """One's own benchmark goes first, a shipped one is said to be another's, none is reported."""
    (tmp_path / "pyproject.toml").write_text('name = "kdlib"')
    monkeypatch.chdir(tmp_path)
    made = {"created": "2026-01-02T03:04:05+00:00", "cpu_model": "Abacus"}
    monkeypatch.setattr(results, "load", lambda path: xr.Dataset(attrs=made))
    ds, told = benchmarks.recorded(tmp_path / "run")
    assert ds is None
    assert told.endswith("kdlib bench makes one")
    for folder, start in (("figures", "not of this run"), ("run", "benchmark of this folder")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "benchmark.nc").touch()
        ds, told = benchmarks.recorded(tmp_path / "run")
        assert ds.attrs == made
        assert told.startswith(start)
        assert "measured on 2026-01-02 on Abacus" in told

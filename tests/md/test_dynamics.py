"""Molecular dynamics: conservation, temperatures, explosions, timing."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from kdlib import units
from kdlib.errors import DynamicsError, InputError
from kdlib.md import dynamics, liquid
from kdlib.md.dynamics import MeltProtocol, thermalize


class Springs(Calculator):
    """Every atom on a spring to its site: E = k/2 sum |r - r_0|^2, solvable by hand."""

    implemented_properties = ("energy", "forces")

    def __init__(self, sites: np.ndarray, stiffness: np.ndarray | float = 2.0) -> None:
        super().__init__()
        self.sites, self.stiffness = sites.copy(), stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Energy and forces of the springs."""
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.positions - self.sites
        self.results["energy"] = float((self.stiffness * away**2).sum() / 2)
        self.results["forces"] = -self.stiffness * away


@pytest.fixture
def springs() -> Atoms:
    """108 atoms on springs of different stiffness (eV/A^2), thermalized."""
    atoms = liquid.liquid_aluminum(3, seed=0)
    stiffness = np.random.default_rng(0).uniform(1.0, 4.0, (len(atoms), 1))
    atoms.calc = Springs(atoms.positions, stiffness)
    return atoms


def largest_error(timestep: float) -> float:
    """Largest energy error of 200 fs of NVE, eV/atom."""
    atoms = liquid.liquid_aluminum(2, seed=0)
    atoms.calc = Springs(atoms.positions)
    start = atoms.get_total_energy() / len(atoms)
    run = dynamics.nve(atoms, round(200 / timestep), timestep, sample_every=1)
    return float(np.abs(run.total_energy - start).max())


def test_velocity_verlet_is_second_order():
    """Half the time step makes a quarter of the energy error."""
    assert largest_error(4.0) / largest_error(2.0) == pytest.approx(4.0, rel=0.05)


def test_nve_follows_the_exact_oscillation():
    """A spring k with mass m swings with period 2 pi sqrt(m/k): after one, all is as before."""
    atoms = Atoms("Al", [[0.2, 0.0, 0.0]])
    atoms.calc = Springs(np.zeros((1, 3)), stiffness=2.0)
    period = 2 * np.pi * np.sqrt(atoms.get_masses()[0] / 2.0) / units.FS
    dynamics.nve(atoms, 1000, timestep=period / 1000)
    np.testing.assert_allclose(atoms.positions, [[0.2, 0, 0]], atol=1e-5)


def test_nve_series(springs):
    """Energies add up, temperature is that of the kinetic energy, and nothing drifts."""
    run = dynamics.nve(springs, 400, sample_every=20)
    np.testing.assert_allclose(run.potential_energy + run.kinetic_energy, run.total_energy)
    n = len(springs)
    expected = 2 * run.kinetic_energy * n / ((3 * n - 3) * units.KB)
    np.testing.assert_allclose(run.temperature, expected, rtol=1e-9)
    np.testing.assert_allclose(run.time, 20.0 * np.arange(1, 21))
    assert abs(float(run.energy_drift)) < 1e-5


def test_drift_is_the_slope_in_eV_per_atom_per_ps(springs, monkeypatch):
    """Heating by 1 meV per atom and fs is a drift of 1 eV/atom/ps."""
    exact = Springs.calculate

    def heating(self, *args, **kwargs):
        exact(self, *args, **kwargs)
        self.calls = getattr(self, "calls", 0) + 1
        self.results["energy"] += 1e-3 * len(self.atoms) * self.calls

    monkeypatch.setattr(Springs, "calculate", heating)
    run = dynamics.nve(springs, 100, sample_every=5)
    assert float(run.energy_drift) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_thermostats_hold_the_temperature(springs, thermostat):
    """Springs at 1200 K: kinetic and potential energy are 3/2 kT per atom each."""
    thermalize(springs, 2400, np.random.default_rng(0))  # half of it goes to the springs
    dynamics.nvt(springs, 1200, 500, thermostat=thermostat)
    run = dynamics.nvt(springs, 1200, 6000, thermostat=thermostat, sample_every=5)
    # 108 atoms: one sample scatters by sqrt(2/3N) = 8 %; some 100 independent ones are here.
    assert float(run.temperature.mean()) == pytest.approx(1200, rel=0.025)
    assert float(run.potential_energy.mean()) == pytest.approx(1.5 * units.KB * 1200, rel=0.04)


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_seed_decides_the_run(springs, thermostat):
    """The same seed repeats a run exactly, another one does not; atoms at rest get velocities."""

    def positions(seed: int) -> np.ndarray:
        atoms = springs.copy()
        atoms.calc = springs.calc
        atoms.set_momenta(np.zeros((len(atoms), 3)))
        run = dynamics.nvt(atoms, 1200, 40, seed=seed, thermostat=thermostat)
        assert run.positions.shape == (2, len(atoms), 3)
        return run.positions.values

    np.testing.assert_array_equal(positions(3), positions(3))
    assert np.abs(positions(3) - positions(4)).max() > 1e-3


def test_langevin_forces_follow_the_seed(springs):
    """From the same velocities, other random forces lead elsewhere; a chain has none."""

    def positions(seed: int, thermostat: str) -> np.ndarray:
        atoms = springs.copy()
        atoms.calc = springs.calc
        return dynamics.nvt(atoms, 1200, 40, seed=seed, thermostat=thermostat).positions.values

    assert np.abs(positions(3, "langevin") - positions(4, "langevin")).max() > 1e-3
    np.testing.assert_array_equal(positions(3, "nose-hoover"), positions(4, "nose-hoover"))


def test_melt_is_hot_first_and_cold_last(springs):
    """A melt ends its hot stage at 2500 K and its last stage at 1200 K."""
    protocol = MeltProtocol(melt_steps=600, quench_steps=300, equilibration_steps=600)
    run = dynamics.melt(springs, protocol, sample_every=10)
    hot = run.temperature.sel(time=slice(500, 1200)).mean()
    cold = run.temperature.sel(time=slice(2300, None)).mean()
    assert float(hot) == pytest.approx(2500, rel=0.06)
    assert float(cold) == pytest.approx(1200, rel=0.06)
    np.testing.assert_allclose(springs.get_momenta().sum(axis=0), 0, atol=1e-9)


def test_explosion_names_the_step(springs):
    """Atoms that fly apart stop the run with the number of the step and the temperature."""
    springs.calc.stiffness = -50.0
    with pytest.raises(DynamicsError, match=r"NVE: step \d+: the temperature is .* above"):
        dynamics.nve(springs, 1000)


def test_forces_that_are_not_finite_stop_the_run(springs):
    """NaN forces end the run at the step that met them."""
    dynamics.nve(springs, 3)
    springs.calc.stiffness = np.nan
    springs.calc.reset()
    with pytest.raises(DynamicsError, match="NVT 1200 K: step 1: the temperature is nan"):
        dynamics.nvt(springs, 1200, 10)


def test_input_error_within_a_run_names_the_step(springs):
    """A configuration that the calculator refuses during a run is a DynamicsError."""
    exact, calls = springs.calc.calculate, []

    def refuse_the_fourth(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise InputError("two atoms are too close")
        exact(*args, **kwargs)

    dynamics.nve(springs, 1)
    springs.calc.calculate = refuse_the_fourth
    with pytest.raises(DynamicsError, match="NVE: step 4: two atoms are too close"):
        dynamics.nve(springs, 10)


def test_seconds_of_the_components(springs):
    """Integrator time is the total less neighbor list and model; unknown parts are NaN."""
    run = dynamics.nve(springs, 5)
    assert run.seconds.sel(component="total") > 0
    assert np.isnan(run.seconds.sel(component=["neighbor_list", "model", "integrator"])).all()

    exact = springs.calc.calculate
    springs.calc.timings = {"neighbor_list": 100.0, "model": 7.0}

    def timed(*args, **kwargs):
        springs.calc.timings["neighbor_list"] += 1e-6
        springs.calc.timings["model"] += 3e-6
        exact(*args, **kwargs)

    springs.calc.calculate = timed
    springs.calc.reset()
    run = dynamics.nve(springs, 10)
    parts = dict(zip(run.component.values, run.seconds.values, strict=True))
    # Ten steps, one force call each; the call before the first step is not counted.
    assert parts["neighbor_list"] == pytest.approx(1e-5)
    assert parts["model"] == pytest.approx(3e-5)
    assert parts["integrator"] == pytest.approx(parts["total"] - 4e-5)


def test_bar_counts_every_step(springs, terminal):
    """The bar of a run is as long as its steps, and full at its end."""
    dynamics.nve(springs, 12)
    shown = terminal()
    assert "NVE: 100%" in shown
    assert " 12/12 " in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 3000.0}, "cannot be quenched"),
        ({"temperature": -1.0}, "cannot be quenched"),
        ({"quench_steps": 0}, "need a step each"),
    ],
)
def test_bad_protocols(settings, message):
    """A melt colder than its liquid, or without steps, is refused."""
    with pytest.raises(InputError, match=message):
        MeltProtocol(**settings)


def test_bad_runs(springs):
    """No steps are not a run, and a thermostat must be known."""
    with pytest.raises(InputError, match="0 steps"):
        dynamics.nve(springs, 0)
    with pytest.raises(InputError, match="unknown thermostat 'berendsen'"):
        dynamics.nvt(springs, 1200, 10, thermostat="berendsen")


def test_conservation_is_that_of_one_run(springs):
    """Samples, drift and stable time are those of a single NVE."""
    whole, followed = springs.copy(), springs.copy()
    whole.calc = followed.calc = springs.calc
    run = dynamics.nve(whole, 40, 0.5, sample_every=5)
    found = dynamics.conservation(followed, 40, 0.5, n_samples=8)
    np.testing.assert_array_equal(found.time, run.time)
    np.testing.assert_allclose(found.energy_change, run.total_energy - run.total_energy[0])
    np.testing.assert_array_equal(found.temperature, run.temperature)
    assert float(found.energy_drift) == pytest.approx(float(run.energy_drift))
    assert float(found.stable) == pytest.approx(0.02)
    np.testing.assert_array_equal(followed.positions, whole.positions)


def test_conservation_ends_with_an_accident(springs):
    """The time before a failure counts; a run that is unphysical from its start has no sample."""

    class Fuse(Springs):
        """Springs that burst after 32 evaluations."""

        n_calls = 0

        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            self.n_calls += 1
            self.results["forces"] *= 1.0 if self.n_calls < 32 else np.nan

    springs.calc = Fuse(springs.calc.sites)
    found = dynamics.conservation(springs, 100, 1.0, n_samples=10)
    assert found.time.values.tolist() == [10.0, 20.0, 30.0]
    assert float(found.stable) == 0.03
    found = dynamics.conservation(springs, 100, 1.0, n_samples=10)
    assert (found.time.values.tolist(), float(found.stable)) == ([0.0], 0.0)
    assert found.energy_change.isnull().all()
    assert np.isnan(found.energy_drift)

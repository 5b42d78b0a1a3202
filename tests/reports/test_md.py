"""Reports about molecular dynamics: thermostats, barostats, LAMMPS and runs at the borders."""

import gc
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase import units as ase_units
from ase.build import bulk, molecule
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT
from ase.md.npt import NPT
from scipy.spatial.transform import Rotation

from kdlib import units
from kdlib.errors import DynamicsError, InputError
from kdlib.hipnn import Potential
from kdlib.hipnn.calculator import HipnnCalculator
from kdlib.md import dynamics, lammps
from kdlib.md.dynamics import thermalize
from kdlib.md.lammps import box

#: Rounding of float64: of energies in eV, of forces in eV/Angstrom.
DOUBLE = 1e-9
#: What LAMMPS's output and its turned boxes leave of it.
DIGITS = 1e-6


@pytest.fixture(scope="module")
def _lammps_here():
    try:
        box.start().close()
    except InputError as reason:
        pytest.skip(str(reason))


needs_lammps = pytest.mark.usefixtures("_lammps_here")


def copper(repeat: int = 2) -> Atoms:
    """Crystal of copper with EMT."""
    atoms = bulk("Cu", cubic=True) * (repeat, repeat, repeat)
    atoms.calc = EMT()
    return atoms


def with_calculator(atoms: Atoms, potential: Potential, **options: object) -> Atoms:
    """Copy of the atoms with a calculator of its own."""
    atoms = atoms.copy()
    atoms.calc = HipnnCalculator(potential, **options)
    return atoms


def npt(atoms: Atoms, family: str):
    """One of ASE's integrators at 300 K and no pressure."""
    common = {"timestep": 1 * ase_units.fs, "temperature_K": 300}
    if family == "NPT":
        inertia = 75**2 * ase_units.fs**2 * 100 * ase_units.GPa
        return NPT(
            atoms, externalstress=0.0, ttime=25 * ase_units.fs, pfactor=inertia, **common
        )  # fmt: skip
    integrator = {"isotropic MTK": IsotropicMTKNPT, "MTK": MTKNPT}[family]
    relaxation = {"tdamp": 100 * ase_units.fs, "pdamp": 1000 * ase_units.fs}
    return integrator(atoms, pressure_au=0.0, **relaxation, **common)


@pytest.mark.filterwarnings("ignore:NPT thermostat has been moved:FutureWarning")
@pytest.mark.parametrize("family", ["NPT", "isotropic MTK", "MTK"])
def test_npt_runs_in_a_primitive_cell(family, untrained):
    """After ten steps of ASE's NPT families, stress and forces are those of the present cell.

    After CederGroupHub/chgnet#68 and materialsproject/atomate2#1254; the cell of ASE's NPT is made
    upper triangular, the others take the primitive one.
    """
    potential, atoms = untrained(), bulk("Al") * (3, 3, 3)
    atoms.rattle(0.05, seed=1)
    if family == "NPT":
        standard, _ = atoms.cell.standard_form("upper")
        atoms.set_cell(standard, scale_atoms=True)
    atoms = with_calculator(atoms, potential)
    thermalize(atoms, 300, np.random.default_rng(0))
    npt(atoms, family).run(10)
    fresh = with_calculator(atoms, potential)
    np.testing.assert_allclose(atoms.get_stress(), fresh.get_stress(), rtol=0, atol=DOUBLE)
    np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), rtol=0, atol=DOUBLE)


def test_a_molecule_without_a_cell_has_no_stress_for_a_barostat(untrained):
    """A stress without a cell is refused in words; after materialsproject/atomate2#1254."""
    atoms = bulk("Al", cubic=True)
    atoms.pbc, atoms.cell = False, np.zeros((3, 3))
    with pytest.raises(InputError, match="stress needs a cell"):
        with_calculator(atoms, untrained()).get_stress()


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_free_atoms_have_the_temperature_asked_for(thermostat, refusal):
    """With half of the atoms fixed, the free ones are at 600 K and reported so, or it is refused.

    After apax-hub/apax#554 and apax-hub/apax#471.
    """
    atoms = copper()
    atoms.rattle(0.03, seed=0)
    fixed, free = np.arange(0, len(atoms), 2), np.arange(1, len(atoms), 2)
    atoms.set_constraint(FixAtoms(fixed))
    start, seen = atoms.positions.copy(), []

    def run() -> None:
        for k in range(30):
            series = dynamics.nvt(
                atoms, 600.0, 40, 4.0, seed=k, sample_every=10, thermostat=thermostat,
                relaxation=40.0,
            )  # fmt: skip
            momenta, masses = atoms.get_momenta()[free], atoms.get_masses()[free, None]
            true = (momenta**2 / masses).sum() / (3 * len(free) * ase_units.kB)
            seen.append((true, float(series.temperature[-1])))

    if not refusal(run):
        true, reported = np.mean(seen[5:], axis=0)
        assert true == pytest.approx(600, abs=90)
        assert reported == pytest.approx(600, abs=90)
        np.testing.assert_allclose(atoms.positions[fixed], start[fixed], rtol=0, atol=DOUBLE)


def drawn(cell: object, symbols: list[str], rng: np.random.Generator) -> Atoms:
    """Atoms at random in a cell, none of them closer than 1.5 Angstrom."""
    cell = np.array(cell, float)
    for _ in range(500):
        scaled = rng.uniform(0, 1, (len(symbols), 3))
        atoms = Atoms(rng.permutation(symbols), scaled @ cell, cell=cell, pbc=True)
        distances = atoms.get_all_distances(mic=True) + 9 * np.eye(len(symbols))
        if distances.min() > 1.5:
            return atoms
    raise AssertionError("no room for the atoms")


def triclinic_crystals() -> dict[str, Atoms]:
    """Cells that LAMMPS must turn, reflect or reduce."""
    rng = np.random.default_rng(2)
    turned = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    rattled = bulk("Al") * (3, 3, 3)
    rattled.rattle(0.1, seed=0)
    skewed = [[8, 0, 0], [5.5, 7, 0], [-4.5, 6.2, 9]]
    very_skewed = [[4, 0, 0], [9.7, 5, 0], [-13.3, 11.1, 6]]
    left_handed = [[0, 6, 0], [7, 0, 0], [1, 2, 8]]
    rotated = np.array([[7, 0, 0], [2, 6, 0], [1, -2, 8]]) @ turned
    return {
        "primitive": bulk("Al"),
        "hexagonal": bulk("Al", "hcp", a=2.9, c=4.7),
        "rattled": rattled,
        "skewed": drawn(skewed, ["Al"] * 3 + ["Cu"] * 3, rng),
        "very skewed": drawn(very_skewed, ["Al", "Al", "Cu"], rng),
        "left-handed": drawn(left_handed, ["Cu", "Al", "Cu", "Al"], rng),
        "rotated": drawn(rotated, ["Al"] * 4 + ["Cu"], rng),
        "negative": drawn(-np.diag([6.0, 7, 8]), ["Al"] * 4, rng),
    }


@needs_lammps
@pytest.mark.parametrize("name", triclinic_crystals())
def test_triclinic_cells_agree_in_lammps_and_ase(name, untrained):
    """Energy, forces and pressure are one in ASE and through LAMMPS, and the atoms come back.

    After facebookresearch/fairchem#1695 and lammps/lammps#3505.
    """
    potential = untrained(("Al", "Cu"), cutoff=6.0, soft_max=5.5)
    atoms = with_calculator(triclinic_crystals()[name], potential)
    energy, pressure = atoms.get_potential_energy(), -atoms.get_stress()[:3].mean()
    with lammps.Driver(potential.calculator(device="cpu"), atoms) as driver:
        driver.command("fix 1 all nve")
        series = driver.run(0)
        found = float(series.potential_energy[-1]) * len(atoms)
        assert found == pytest.approx(energy, rel=0, abs=DIGITS)
        np.testing.assert_allclose(driver.forces(), atoms.get_forces(), rtol=0, atol=DIGITS)
        gigapascal = pressure / units.GPA
        assert float(series.pressure[-1]) == pytest.approx(gigapascal, rel=0, abs=1e-3)
        back = driver.atoms()
    np.testing.assert_allclose(back.positions, atoms.positions, rtol=0, atol=DIGITS)
    np.testing.assert_allclose(back.cell.array, atoms.cell.array, rtol=0, atol=DIGITS)


def energy_in_both(driver: lammps.Driver) -> float:
    """Energy (eV) of LAMMPS's last configuration; ASE gives the same one, and the same forces."""
    driver.run(0)
    atoms = driver.atoms()
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    found = float(driver.thermo().potential_energy[-1]) * len(atoms)
    assert found == pytest.approx(energy, rel=0, abs=1e-5)
    np.testing.assert_allclose(driver.forces(), atoms.get_forces(), rtol=0, atol=1e-5)
    return energy


MINIMIZE = ["minimize 0 1e-3 500 1000"]
RELAX_CELL = [
    "fix relax all box/relax tri 0.0",
    "min_style cg",
    "minimize 0 1e-3 300 1000",
    "unfix relax",
]


@needs_lammps
@pytest.mark.parametrize("commands", [MINIMIZE, RELAX_CELL], ids=["positions", "cell"])
def test_lammps_minimizes_as_ase_sees_it(commands):
    """LAMMPS's minimizer lowers the energy, and ASE gives the final one for the same atoms.

    After lammps/lammps#4378 and facebookresearch/fairchem#1546.
    """
    atoms = bulk("Cu") * (3, 3, 3)
    atoms.rattle(0.15, seed=0)
    atoms.calc = EMT()
    with lammps.Driver(EMT(), atoms) as driver:
        for command in commands:
            driver.command(command)
        assert energy_in_both(driver) < atoms.get_potential_energy() - 0.1


@needs_lammps
def test_lammps_npt_of_a_tilted_cell_ends_where_ase_sees_it():
    """After NPT with a box that tilts and flips, energy and forces are those of ASE.

    After lammps/lammps#4378 and facebookresearch/fairchem#1546.
    """
    atoms = bulk("Cu") * (3, 3, 3)
    tilt = np.array([[1, 0.0, 0], [0.25, 1, 0], [0, 0.2, 1]])
    atoms.set_cell(atoms.cell.array @ tilt, scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    with lammps.Driver(EMT(), atoms) as driver:
        driver.command("velocity all create 900 4928")
        driver.command("timestep 0.002")
        driver.command("fix 1 all npt temp 900 900 0.1 tri 0 0 0.3 flip yes")
        driver.run(300, 50)
        driver.command("unfix 1")
        driver.command("fix 2 all nve")
        energy_in_both(driver)


class Breaking(EMT):
    """EMT whose forces become NaN in the sixth evaluation."""

    evaluations = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Forces that are good five times."""
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        if self.evaluations > 5:
            self.results["forces"][:] = np.nan


def single() -> Atoms:
    """One copper atom in a large cell."""
    return Atoms("Cu", cell=[9] * 3, pbc=True, calculator=EMT())


def carbon_monoxide() -> Atoms:
    """A molecule without a cell."""
    atoms = molecule("CO")
    atoms.calc = EMT()
    return atoms


def continued():
    """Two runs, one after the other, with the same atoms."""
    atoms = copper()
    dynamics.nvt(atoms, 300.0, 40)
    return dynamics.nvt(atoms, 300.0, 40)


def in_nvt(make, n_steps: int, *timestep: float, **options: object):
    """Run at 300 K of new atoms, not yet started."""
    return lambda: dynamics.nvt(make(), 300.0, n_steps, *timestep, **options)


ODD_RUNS = {
    "5 steps, a sample every 10": lambda: dynamics.nve(copper(), 5),
    "10 steps, one sample": lambda: dynamics.nve(copper(), 10),
    "5 steps of NVT": in_nvt(copper, 5),
    "one atom, Nose-Hoover": in_nvt(single, 20, thermostat="nose-hoover", sample_every=5),
    "one atom, Langevin": in_nvt(single, 20, thermostat="langevin", sample_every=5),
    "molecule, Nose-Hoover": in_nvt(
        carbon_monoxide, 40, 0.5, thermostat="nose-hoover", sample_every=10
    ),
    "molecule, Langevin": in_nvt(carbon_monoxide, 40, 0.5, thermostat="langevin", sample_every=10),
    "continued": continued,
}


@pytest.mark.parametrize("name", ODD_RUNS)
def test_odd_runs_end_well_or_are_refused(name, refusal):
    """A run at the borders of what is a run gives a series, or one sentence, and never a warning.

    After deepmodeling/abacus-develop#497 and ACEsuit/mace#261.
    """
    refusal(ODD_RUNS[name])


def test_forces_that_become_nan_end_a_run_with_its_step():
    """NaN among the forces is an error that names the step; after ACEsuit/mace#261."""
    atoms = copper()
    atoms.calc = Breaking()
    with pytest.raises(DynamicsError, match="step 5"):
        dynamics.nvt(atoms, 300.0, 40)


def resident() -> float:
    """Memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.fixture
def alloy() -> Atoms:
    """Rattled crystal of aluminum and copper."""
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    atoms.numbers[::3] = 29
    atoms.rattle(0.05, seed=0)
    return atoms


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("backend", "calls"), [("fused", 4000), pytest.param("hippynn", 1000, marks=pytest.mark.slow)]
)
def test_memory_stays_over_thousands_of_calls(backend, calls, alloy, untrained):
    """A process grows by less than 20 MiB over thousands of force calls with one calculator.

    After ACEsuit/mace#174 and libAtoms/QUIP#235.
    """
    atoms = with_calculator(alloy, untrained(("Al", "Cu"), dtype="float32"), backend=backend)
    start, rng = atoms.positions.copy(), np.random.default_rng(0)

    def compute(count: int) -> float:
        for _ in range(count):
            atoms.positions = start + rng.normal(scale=0.15, size=start.shape)
            atoms.get_forces()
        gc.collect()
        return resident()

    before = compute(300)
    assert compute(calls) - before <= 20


@pytest.mark.parametrize("backend", ["fused", "hippynn"])
def test_swapped_and_removed_atoms_are_seen(backend, alloy, untrained):
    """Along Monte-Carlo swaps, wraps and removals each energy is that of a fresh calculator.

    After ACEsuit/mace#174 and libAtoms/QUIP#235.
    """
    potential, rng = untrained(("Al", "Cu"), dtype="float32"), np.random.default_rng(0)
    atoms = with_calculator(alloy, potential, backend=backend)
    for k in range(30):
        pair = rng.integers(0, len(atoms), 2)
        atoms.numbers[pair] = atoms.numbers[pair[::-1]]
        if k % 7 == 0:
            atoms.wrap()
        if k % 11 == 0:
            del atoms[int(rng.integers(len(atoms)))]
        fresh = with_calculator(atoms, potential, backend=backend)
        energy = fresh.get_potential_energy()
        assert atoms.get_potential_energy() == pytest.approx(energy, rel=0, abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), rtol=0, atol=1e-5)

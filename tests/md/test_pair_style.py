"""``pair_style hipnn``: the physics of the calculator in LAMMPS itself, on any number of ranks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io.lammpsdata import write_lammps_data
from ase.optimize import FIRE
from in_lammps import PLUGIN, Lammps, Model, crystal

from kdlib import hipnn, units
from kdlib.md import lammps, structure
from kdlib.md.dynamics import thermalize
from kdlib.md.lammps import box, pairstyle, program

#: Largest relative deviation from the calculator. In float32 both round, in another order.
TOLERANCE = {"double": 1e-9, "float": 1e-5}


def triclinic() -> Atoms:
    """Rattled aluminum in a tilted, stretched cell."""
    atoms = crystal()
    tilt = np.array([[1.0, 0.1, 0.2], [0.05, 1.1, -0.1], [0.0, 0.1, 0.95]])
    atoms.set_cell(atoms.cell.array @ tilt, scale_atoms=True)
    return atoms


def surface() -> Atoms:
    """A slab under vacuum that is wider than the cutoff."""
    atoms = crystal()
    atoms.set_cell(atoms.cell.array @ np.diag([1, 1, 3.0]))
    return atoms


def alloy() -> Atoms:
    """Three species in a tilted cell."""
    atoms = triclinic()
    atoms.numbers[::3] = 29
    atoms.numbers[1::5] = 47
    return atoms


def tiny() -> Atoms:
    """Two atoms in a cell much smaller than the cutoff: neighbors are images, own ones included."""
    atoms = bulk("Al", a=4.05) * (2, 1, 1)
    atoms.rattle(0.1, seed=0)
    return atoms


CONFIGURATIONS = {
    "crystal": crystal, "melt": lambda: crystal(0.45, 3), "triclinic": triclinic,
    "surface": surface, "tiny": tiny, "alloy": alloy,
}  # fmt: skip


PER_ATOM = (
    "compute pe all pe/atom",
    "compute shared all stress/atom NULL virial",
    "compute centroid all centroid/stress/atom NULL virial",
    "compute virial all pressure NULL virial",
    "thermo_style custom step pe c_virial[1]",
)
CASES = [
    *[("student", name) for name in CONFIGURATIONS if name != "alloy"],
    ("teacher", "crystal"), ("odd", "tiny"), ("scalar", "triclinic"), ("plain", "surface"),
    ("alloy", "alloy"), ("three of three", "alloy"),
]  # fmt: skip


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("name", "where"), CASES)
def test_pair_style_is_the_calculator(saved, name, where, precision):
    """Energies of atoms, forces and virial are the calculator's; virials of atoms add up to it."""
    model, atoms = saved(name, precision), CONFIGURATIONS[where]()
    atoms.calc = model.calculator()
    limit = TOLERANCE[precision]
    with Lammps(model, atoms) as ours:
        ours.run(*PER_ATOM, "run 0")
        interaction = atoms.get_potential_energy() - _free(model, atoms)
        found = ours.lammps.get_thermo("pe") - _free(model, atoms)
        assert found == pytest.approx(interaction, rel=limit, abs=1e-7)
        energies = atoms.get_potential_energies()
        np.testing.assert_allclose(ours.per_atom("pe"), energies, rtol=1e-13, atol=10 * limit)
        forces = atoms.get_forces()
        np.testing.assert_allclose(
            ours.box.vectors("f"), forces, atol=limit * max(1.0, abs(forces).max())
        )
        _assert_virials(ours, atoms, limit)


def _free(model: Model, atoms: Atoms) -> float:
    return float(hipnn.load(model.folder).module.e0_of(atoms.numbers).sum())


def _assert_virials(ours: Lammps, atoms: Atoms, limit: float) -> None:
    virial = ours.box.virial(atoms.get_stress(), atoms.get_volume())
    atol = 10 * limit * max(1.0, abs(virial).max())
    nktv2p = 1.602176634e6  # bar per eV/Angstrom^3, as in LAMMPS
    whole = ours.lammps.numpy.extract_compute("virial", 0, 1) * atoms.get_volume() / nktv2p
    np.testing.assert_allclose(whole, virial, atol=atol)
    shared = -ours.per_atom("shared").sum(axis=0) / nktv2p
    centroid = -ours.per_atom("centroid").sum(axis=0) / nktv2p
    np.testing.assert_allclose(shared, virial, atol=atol)
    np.testing.assert_allclose(centroid[:6], virial, atol=atol)
    np.testing.assert_allclose(centroid[6:], virial[3:], atol=atol)


def test_hybrid_overlay_adds_another_pair_style(saved):
    """Energy, forces and virial of two pair styles add up, also where the virial is explicit.

    AGNI forbids LAMMPS to derive the virial from the forces.
    """
    model, atoms = saved("student"), triclinic()
    shares = [folder / "share/lammps/potentials" for folder in program.of_package().folders]
    agni = next((f / "Al_prb.agni" for f in shares if (f / "Al_prb.agni").is_file()), None)
    if agni is None:
        pytest.skip("LAMMPS came without its potentials")
    found = {}
    for styles in ("hipnn double", "agni", "hipnn double agni"):
        lines = [f"pair_style hybrid/overlay {styles}"]
        lines += [f"pair_coeff * * hipnn {model.folder} Al"] if "hipnn" in styles else []
        lines += [f"pair_coeff * * agni {agni} Al"] if "agni" in styles else []
        with Lammps(model, atoms) as ours:
            ours.run(*lines, *[one for one in PER_ATOM if "centroid" not in one], "run 0")
            virial = ours.lammps.numpy.extract_compute("virial", 0, 1).copy()
            found[styles] = virial, ours.box.vectors("f"), ours.per_atom("shared").sum(axis=0)
    for ours, other, both in zip(*found.values(), strict=True):
        np.testing.assert_allclose(both, ours + other, rtol=1e-9, atol=1e-9 * abs(both).max())


def test_types_of_another_pair_style_are_not_seen(saved):
    """In a hybrid, NULL atoms are no neighbors: the others have the energy that they have alone."""
    model, both = saved("student"), crystal()
    both.numbers[::4] = 29
    alone = both[both.numbers == 13]
    alone.calc = model.calculator()
    lines = [
        "pair_style hybrid hipnn double zero 5.0",
        f"pair_coeff * * hipnn {model.folder} Al NULL",
    ]
    with Lammps(saved("alloy"), both) as ours:
        ours.run(*lines, "pair_coeff 1*2 2 zero", "run 0")
        assert ours.lammps.get_thermo("pe") == pytest.approx(
            alone.get_potential_energy(), rel=1e-13
        )
        np.testing.assert_allclose(
            ours.box.vectors("f")[both.numbers == 13], alone.get_forces(), atol=1e-9
        )


def cluster(model: Model) -> Atoms:
    """A hot free cluster in a box so large that it meets no image."""
    atoms = bulk("Al", a=4.05, cubic=True) * (2, 2, 2)
    atoms.rattle(0.2, seed=3)
    atoms.center(vacuum=12.0)
    atoms.pbc = True
    thermalize(atoms, 900.0, np.random.default_rng(0))
    return atoms


def _moment(model: Model, atoms: Atoms) -> np.ndarray:
    """Sum of r_i e_i with potential and kinetic energies of atoms, eV Angstrom."""
    atoms = atoms.copy()
    atoms.calc = model.calculator()
    kinetic = (atoms.get_momenta() ** 2).sum(axis=1) / (2 * atoms.get_masses())
    energies = atoms.get_potential_energies() - hipnn.load(model.folder).module.e0_of(atoms.numbers)
    return ((energies + kinetic)[:, None] * atoms.positions).sum(axis=0)


@pytest.mark.parametrize("name", ["student", "scalar"])
def test_heat_flux_is_the_motion_of_the_energies(saved, name):
    """From energies and centroid virials of atoms it is d/dt of the sum of r_i e_i."""
    model = saved(name)
    atoms, h = cluster(model), 0.02 * units.FS
    forces = model.calculator().get_property("forces", atoms)
    ends = []
    for sign in (-1, 1):  # free flight and constant forces are exact to the order that matters
        moved = atoms.copy()
        velocities = atoms.get_velocities() + sign * h * forces / atoms.get_masses()[:, None]
        moved.positions += sign * h * atoms.get_velocities()
        moved.positions += h**2 / 2 * forces / atoms.get_masses()[:, None]
        moved.set_velocities(velocities)
        ends.append(_moment(model, moved))
    expected = (ends[1] - ends[0]) / (2 * h) * units.FS * units.PS  # eV Angstrom/ps
    with Lammps(model, atoms) as ours:
        ours.run(
            *PER_ATOM, "compute ke all ke/atom",
            "compute flux all heat/flux ke pe centroid", "thermo_style custom step c_flux[1]",
            "run 0",
        )  # fmt: skip
        flux = np.array(ours.lammps.numpy.extract_compute("flux", 0, 1)[:3])
        moving = ours.box.vectors("v").sum(axis=0)
    flux -= hipnn.load(model.folder).module.e0_of(atoms.numbers[:1]) * moving  # not in the moment
    np.testing.assert_allclose(flux, expected, rtol=2e-5, atol=2e-5 * abs(expected).max())


INPUT = """
units metal
atom_style atomic
{before}
read_data start.data
plugin load {plugin}
pair_style hipnn {precision}
pair_coeff * * {folder} Al
neighbor 1.0 bin
compute pe all pe/atom
compute shared all stress/atom NULL virial
compute total all reduce sum c_pe c_shared[1] c_shared[4]
compute virial all pressure NULL virial
thermo_style custom step pe pxx pxy c_total[1] c_total[2] c_total[3]
thermo_modify format float %.15g
velocity all create 300 1 loop all
fix 1 all nve
thermo 5
run 10
write_dump all custom forces.txt id fx fy fz xu yu zu modify sort id format float %.15g
"""


def by_lmp(folder: Path, model: Model, atoms: Atoms, ranks: int, **changes: str) -> tuple:
    """Thermodynamic lines, and forces and positions at the end, of LAMMPS on several ranks."""
    folder.mkdir(exist_ok=True)
    write_lammps_data(folder / "start.data", atoms, masses=True, units="metal")
    words = {"before": "", "plugin": PLUGIN, "precision": model.precision, "folder": model.folder}
    (folder / "in.run").write_text(INPUT.format(**(words | changes)))
    found = program.of_package()
    command = [found.executable, "-in", "in.run", "-log", "none", "-nocite"]
    if ranks > 1:
        command = [Path(sys.prefix) / "bin" / "mpiexec", "-n", str(ranks), *command]
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=found.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.partition("Step ")[2].partition("Loop time")[0].splitlines()[1:]
    thermo = np.array([[float(word) for word in row.split()] for row in rows if row.strip()])
    return thermo, np.loadtxt(folder / "forces.txt", skiprows=9)


@pytest.mark.skipif(
    not (Path(sys.prefix) / "bin" / "mpiexec").is_file(), reason="there is no mpiexec here"
)
def test_ranks_agree(saved, tmp_path):
    """1, 2 and 4 ranks, some without atoms, and threads move the same atoms in the same way."""
    model, atoms = saved("student"), crystal(n=3)
    atoms.set_cell(atoms.cell.array @ np.diag([4.0, 1, 1]))  # atoms on one side only
    processors = {"before": "processors * 1 1"}
    alone = by_lmp(tmp_path / "1", model, atoms, 1)
    for ranks in (2, 4):
        several = by_lmp(tmp_path / str(ranks), model, atoms, ranks, **processors)
        for one, other in zip(alone, several, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9)
    threaded = by_lmp(tmp_path / "threads", model, atoms, 1, before="package omp 3")
    again = by_lmp(tmp_path / "again", model, atoms, 1, before="package omp 3")
    for one, other, same in zip(alone, threaded, again, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(other, same)


def test_minimization_ends_where_ases_does(saved):
    """FIRE with fixed cell finds the same energy; box/relax leaves no pressure."""
    model, atoms = saved("odd"), crystal(0.05)
    atoms.calc = model.calculator()
    with Lammps(model, atoms) as ours:
        ours.run("min_style fire", "minimize 0 1e-4 2000 20000")
        energy = ours.lammps.get_thermo("pe")
        end = ours.now()
    FIRE(atoms, logfile=None).run(fmax=1e-4, steps=2000)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    end.calc = model.calculator()
    assert end.get_potential_energy() == pytest.approx(energy, abs=1e-8)


def test_box_relax_finds_the_cell_without_pressure(saved):
    """LAMMPS's relaxed crystal has no stress in ASE."""
    model, atoms = saved("odd"), bulk("Al", a=4.0, cubic=True)
    with Lammps(model, atoms) as ours:
        ours.run("fix 1 all box/relax iso 0.0 vmax 0.01", "minimize 0 1e-8 200 2000")
        end = ours.now()
    end.calc = model.calculator()
    start = atoms.copy()
    start.calc = model.calculator()
    assert end.cell.lengths()[0] != pytest.approx(4.0, abs=1e-3)
    assert abs(end.get_stress()[:3]).max() < 1e-2 * abs(start.get_stress()[:3]).max()


def test_nve_conserves_the_energy(saved):
    """While atoms heat and cool, the total energy stays; neighbors are listed when LAMMPS wants."""
    atoms = crystal(0.02, 3)
    thermalize(atoms, 300.0, np.random.default_rng(0))
    with Lammps(saved("odd", "float"), atoms) as ours:
        ours.run("neigh_modify every 1 delay 0 check yes", "neighbor 0.3 bin", "fix 1 all nve")
        ours.run("timestep 0.001", "run 0")
        totals, kinetic = [], []
        for _ in range(20):
            ours.run("run 10")
            totals.append(ours.lammps.get_thermo("etotal") / len(atoms))
            kinetic.append(ours.lammps.get_thermo("ke") / len(atoms))
    assert np.ptp(kinetic) > 1e-2
    assert np.ptp(totals) < 2e-3 * np.ptp(kinetic)


def test_a_barostat_moves_a_tilted_cell_as_through_the_calculator(saved):
    """NPT of a triclinic cell passes through the same states as with `fix external`."""
    model, atoms = saved("student"), triclinic()
    thermalize(atoms, 300.0, np.random.default_rng(0))
    ends = []
    for forces_by in (lammps.driver.PAIR_STYLE, lammps.driver.EXTERNAL):
        with lammps.Driver(model.calculator(), atoms, forces_by=forces_by) as driver:
            driver.command("fix 1 all npt temp 300 300 0.1 tri 0 0 0.5")
            ends.append((driver.run(20), driver.atoms()))
    for name in ("temperature", "pressure", "volume", "potential_energy"):
        np.testing.assert_allclose(ends[0][0][name], ends[1][0][name], rtol=1e-7)
    np.testing.assert_allclose(ends[0][1].positions, ends[1][1].positions, atol=1e-7)
    assert abs(ends[0][1].cell.array - atoms.cell.array).max() > 1e-4


def test_a_restart_continues_the_run(saved, tmp_path):
    """From a restart file, with the pair style given again, the run continues to the same end."""
    model, atoms = saved("student"), crystal()
    thermalize(atoms, 300.0, np.random.default_rng(0))
    with Lammps(model, atoms) as ours:
        ours.run("fix 1 all nve", "run 10", f"write_restart {tmp_path}/half", "run 10")
        end, order = ours.lammps.numpy.extract_atom("x").copy(), ours.box._order()
    again = box.start()
    for line in (f"read_restart {tmp_path}/half", *pairstyle.commands(PLUGIN, "double")):
        again.command(line)
    again.command(f"pair_coeff * * {model.folder} Al")
    again.command("fix 1 all nve")
    again.command("run 10")
    n = len(atoms)
    names = again.numpy.extract_atom("id")[:n] - 1
    np.testing.assert_allclose(
        again.numpy.extract_atom("x")[:n][np.argsort(names)], end[:n][np.argsort(order)], atol=1e-9
    )
    again.close()


def test_results_of_a_liquid_say_what_computed_the_forces(saved):
    """With `engine: lammps` the record of g(r) names the pair style."""
    protocol = structure.StructureProtocol(
        temperature=50.0, equilibration_steps=2, n_steps=8, sample_every=1, timestep=0.1,
        n_bins=8, r_max=4.0, engine="lammps",
    )  # fmt: skip
    found = structure.liquid_structure(saved("student").calculator(), crystal(0.01), protocol)
    assert found.forces_by == "pair_style hipnn"

"""``pair_style hipnn``: the physics of the calculator in LAMMPS itself, on any number of ranks."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io.lammpsdata import write_lammps_data
from ase.optimize import FIRE

from kdlib import hipnn, units
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig
from kdlib.md import lammps
from kdlib.md.dynamics import thermalize
from kdlib.md.lammps import box, pairstyle, program
from kdlib.md.lammps.box import Box

try:
    PLUGIN = pairstyle.build()
    box.start().close()
except InputError as reason:
    pytest.skip(str(reason), allow_module_level=True)

#: Largest relative deviation from the calculator. In float32 both round, in another order.
TOLERANCE = {"double": 1e-9, "float": 1e-5}
#: E0 large enough to cost float32 all digits that matter.
E0 = -6600.123456789
#: Smallest and largest sizes, both orders of tensors, layers with and without residual connections.
MODELS = {
    "student": HipnnConfig(16, 8, 1),
    "teacher": HipnnConfig(128, 40, 4),
    "odd": HipnnConfig(13, 7, 2, cutoff=6.0, soft_max=5.5, cusp_reg=1e-3),
    "scalar": HipnnConfig(12, 8, 1, l_max=0),
    "plain": HipnnConfig(12, 5, 3, resnet=False),
    "alloy": HipnnConfig(9, 6, 1, species=("Cu", "Al", "Ag")),
    "three of three": HipnnConfig(3, 4, 2, species=("Cu", "Al", "Ag"), l_max=0),
}


@dataclass(frozen=True)
class Model:
    """A saved model of random weights."""

    folder: Path
    precision: str

    def calculator(self):
        """Our own kernels with the same weights."""
        return hipnn.load(self.folder).calculator(device="cpu")


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Callable[..., Model]:
    """Return a function that saves a model of MODELS."""
    folder = tmp_path_factory.mktemp("models")

    def save(name: str, precision: str = "double") -> Model:
        home = folder / f"{name} {precision}".replace(" ", "-")
        if not home.exists():
            dtype = {"double": "float64", "float": "float32"}[precision]
            settings = {f: getattr(MODELS[name], f) for f in MODELS[name].__dataclass_fields__}
            module = hipnn.build(HipnnConfig(**(settings | {"dtype": dtype})), seed=1)
            with torch.no_grad():
                module.e0.copy_(E0 + 100 * torch.arange(len(module.config.species)))
            hipnn.save(module, home)
        return Model(home, precision)

    return save


def crystal(amplitude: float = 0.1, n: int = 2) -> Atoms:
    """Rattled aluminum."""
    atoms = bulk("Al", a=4.05, cubic=True) * (n, n, n)
    atoms.rattle(amplitude, seed=0)
    return atoms


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


class Lammps:
    """LAMMPS with a configuration and the pair style in this process."""

    def __init__(self, model: Model, atoms: Atoms, *before: str) -> None:
        self.atoms, self.lammps = atoms, box.start()
        self.box = Box(self.lammps, atoms)
        symbols = [atoms.symbols[atoms.numbers == z][0] for z in np.unique(atoms.numbers)]
        loaded = pairstyle.commands(PLUGIN, model.precision)
        coefficients = f"pair_coeff * * {model.folder} {' '.join(symbols)}"
        for line in (*before, *loaded, coefficients):
            self.lammps.command(line)

    def __enter__(self) -> "Lammps":
        return self

    def __exit__(self, *error: object) -> None:
        self.lammps.close()

    def run(self, *lines: str) -> None:
        """Execute commands."""
        for line in lines:
            self.lammps.command(line)

    def per_atom(self, compute: str) -> np.ndarray:
        """Values of a compute in the order of the atoms."""
        kind = 1 if compute == "pe" else 2
        values = self.lammps.numpy.extract_compute(compute, 1, kind)[: len(self.atoms)]
        ordered = np.empty_like(values)
        ordered[self.box._order()] = values
        return ordered

    def now(self) -> Atoms:
        """The configuration that LAMMPS holds."""
        atoms = self.atoms.copy()
        self.box.read(atoms)
        return atoms


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


def refused(model: Model, atoms: Atoms, *lines: str) -> str:
    """What LAMMPS says instead of running, in one sentence."""
    with pytest.raises(Exception, match="hipnn") as error, Lammps(model, atoms) as ours:
        ours.run(*lines, "run 0")
    return str(error.value).splitlines()[0]


def altered(model: Model, folder: Path, **changes: object) -> Model:
    """A copy of a model with other entries in its configuration."""
    shutil.copytree(model.folder, folder)
    record = json.loads((folder / "config.json").read_text())
    record["hipnn"] |= changes
    (folder / "config.json").write_text(json.dumps(record))
    return Model(folder, model.precision)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"l_max": 2}, "l_max 2, and the pair style covers l_max 0 and 1"),
        ({"n_interaction_layers": 2}, "several interaction layers, and the pair style covers one"),
        ({"n_sensitivities": 9}, "sensitivity.mu does not fit config.json"),
        ({"n_features": 15}, "does not fit config.json"),
        ({"n_atom_layers": 2}, "tensor network.blocks.0.2.base_layer.weight is missing"),
        ({"n_atom_layers": 0}, "holds more atom layers than config.json"),
        ({"cutoff": "wide"}, "'cutoff' is not a number"),
        ({"cutoff": -1}, "the cutoff is not a positive length"),
        ({"l_max": 0.5}, "'l_max' is not a whole number"),
    ],
)
def test_other_models_are_refused_with_the_reason(saved, tmp_path, changes, reason):
    """A model that is not covered, or does not fit its configuration, is one error."""
    model = altered(saved("student"), tmp_path / "other", **changes)
    assert reason in refused(model, crystal())


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("model.safetensors", lambda b: b[: len(b) // 2], "truncated"),
        ("model.safetensors", lambda b: b[:6], "truncated"),
        ("model.safetensors", lambda b: b"\xff" * 8 + b[8:], "truncated"),
        ("model.safetensors", lambda b: b[:8] + b"[" + b[9:], "unreadable header"),
        ("model.safetensors", lambda b: b[:-8] + struct.pack("d", np.nan), "is not finite"),
        ("model.safetensors", lambda b: b"", "no such model file"),
        ("config.json", lambda b: b[: len(b) // 2], "config.json is not that of a kdlib model"),
        ("config.json", lambda b: b"[" * 10000, "config.json is not that of a kdlib model"),
        ("config.json", lambda b: b"{}", "'hipnn' is missing"),
    ],
)
def test_a_damaged_model_is_one_error(saved, tmp_path, file, change, reason):
    """Truncated and altered files are refused by name."""
    model = altered(saved("student"), tmp_path / "damaged")
    path = model.folder / file
    path.write_bytes(change(path.read_bytes()))
    assert reason in refused(model, crystal())


def test_an_unfinished_training_is_refused(saved, tmp_path):
    """Beside a checkpoint the weights are not those that the training will end with."""
    model = altered(saved("student"), tmp_path / "unfinished")
    (model.folder / "checkpoint.safetensors").write_bytes(b"weights")
    assert "is not finished" in refused(model, crystal())


def test_what_the_pair_style_cannot_do_is_refused(saved):
    """Unknown elements and precisions are one sentence each."""
    model, atoms = saved("alloy"), crystal()
    assert "element Au is unknown to a model of Cu, Al, Ag" in refused(
        model, atoms, f"pair_coeff * * {model.folder} Au"
    )
    assert "unknown precision 'half'" in refused(model, atoms, "pair_style hipnn half")


@pytest.mark.parametrize(
    ("first", "reason"),
    [("units real", "works in units metal .* not real"), ("newton off", "needs newton on")],
)
def test_other_settings_are_refused(saved, first, reason):
    """Other units would mistake the energies; without newton nobody gets the forces on ghosts."""
    instance = box.start()
    for line in (
        "units metal", first, "region box block 0 5 0 5 0 5", "create_box 1 box", "mass 1 27",
        *pairstyle.commands(PLUGIN), f"pair_coeff * * {saved('student').folder} Al",
    ):  # fmt: skip
        instance.command(line)
    with pytest.raises(Exception, match=reason):
        instance.command("run 0")
    instance.close()


def test_a_plugin_for_another_lammps_is_one_error(tmp_path):
    """The layout of LAMMPS's classes may have changed: nothing is registered."""
    here = str(program.about(program.of_package()).version).encode()
    assert here in PLUGIN.read_bytes()
    (tmp_path / "other.so").write_bytes(PLUGIN.read_bytes().replace(here, b"20240829"))
    (tmp_path / "in.try").write_text("plugin load ./other.so\npair_style hipnn\n")
    found = program.of_package()
    done = subprocess.run(
        [found.executable, "-in", "in.try", "-log", "none"], cwd=tmp_path, env=found.environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "was compiled for LAMMPS 20240829" in done.stdout + done.stderr


def test_without_a_compiler_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    """The Debian package is named, and that `fix external` remains."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"\(Debian: g\+\+\).*fix external"):
        pairstyle.build()
    assert not list(tmp_path.rglob("*.so"))


def test_what_does_not_compile_leaves_nothing_behind(monkeypatch, tmp_path):
    """The file appears whole or not at all."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(pairstyle, "OPTIONS", ("-std=gnu++17", "--no-such-option"))
    with pytest.raises(InputError, match="cannot compile pair_style hipnn: .*no-such-option"):
        pairstyle.build()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_driver_takes_the_pair_style_for_saved_models(saved, monkeypatch):
    """It is chosen where it is compiled and covers the calculator, and the series says so."""
    model, atoms = saved("student"), crystal()
    unsaved = hipnn.Potential(hipnn.build(MODELS["student"])).calculator(device="cpu")
    stock = hipnn.load(model.folder).calculator(device="cpu", backend="hippynn")
    choices = {
        "pair_style hipnn": [model.calculator()],
        "fix external": [unsaved, stock],
    }
    for chosen, calculator in ((name, one) for name, all_ in choices.items() for one in all_):
        with lammps.Driver(calculator, atoms) as driver:
            assert driver.run(0).forces_by == driver.forces_by == chosen
    with pytest.raises(InputError, match="does not cover this HipnnCalculator"):
        lammps.Driver(unsaved, atoms, forces_by="pair_style hipnn")
    with pytest.raises(InputError, match="forces_by is 'magic', must be"):
        lammps.Driver(unsaved, atoms, forces_by="magic")
    monkeypatch.setattr(pairstyle, "built", lambda _: None)
    with lammps.Driver(model.calculator(), atoms) as driver:
        assert driver.forces_by == "fix external"
    with pytest.raises(InputError, match="has not been compiled; run kdlib lammps build"):
        lammps.Driver(model.calculator(), atoms, forces_by="pair_style hipnn")

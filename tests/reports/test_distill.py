"""Reports about labeling runs: two at once, failing teachers, edited data and odd structures."""

import json
import os
import sys
import time
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import distill, teachers
from kdlib.distill import Plan, labeled, sampling, workflow
from kdlib.distill.plan import keep
from kdlib.distill.sampling import structures
from kdlib.errors import InputError
from kdlib.geometry import cells
from kdlib.geometry.cells import closest_pair

#: A distillation of seconds.
BRIEF = Plan(
    "emt", ("Cu",), temperatures=(300.0, 600.0), size="8-6-1", cutoff=5.0, n_atoms=8, n_start=16,
    n_teacher_runs=1, teacher_steps=20, n_models=2, n_trajectories=2, n_steps=100, max_rounds=1,
    round_epochs=8, final_epochs=8, target_force_rmse=1e-6,
)  # fmt: skip
#: It is a file because its workers must be able to import it.
DISTILL = """
import json, sys
from kdlib import distill

if __name__ == "__main__":
    distill.run(distill.Plan(**json.loads(sys.argv[1])), sys.argv[2])
"""


@pytest.fixture
def _in_this_process(monkeypatch):
    """Distill in a thread: processes of their own take seconds to start."""
    threads = types.SimpleNamespace(pool=lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(workflow, "processes", threads)


@pytest.mark.slow
@pytest.mark.usefixtures("_in_this_process")
def test_a_second_distillation_in_one_folder_is_refused(start, refusal, tmp_path):
    """Of two simultaneous distillations in a folder, the second reports it, the first succeeds.

    After yennanliu/RepoLens#222 and nanoporetech/tombo#30.
    """
    folder, script = tmp_path / "out", tmp_path / "distillation.py"
    script.write_text(DISTILL)
    one = start(script, json.dumps(asdict(BRIEF)), folder)
    deadline = time.monotonic() + 60
    while not (folder / "plan.json").exists():
        assert one.poll() is None, one.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    said = refusal(distill.run, BRIEF, folder)
    _, error = one.communicate(timeout=280)
    assert one.returncode == 0, error
    assert "another" in said.lower()


class Spins(LennardJones):
    """A teacher whose energy depends on the initial magnetic moments, and that remembers them."""

    def __init__(self, seen: set[float]) -> None:
        super().__init__(sigma=2.2, epsilon=0.2, rc=5.0, smooth=True)
        self.seen = seen

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        """Lennard-Jones, less a share of the squared moments."""
        super().calculate(atoms, properties, system_changes)
        moments = atoms.get_initial_magnetic_moments()
        self.seen.add(round(float(abs(moments).sum()), 3))
        self.results["energy"] -= 0.1 * float((moments**2).sum())


def test_magnetic_moments_reach_the_teacher_or_are_refused(tmp_path, monkeypatch, refusal, capsys):
    """Moments of the structure are in the cells that the teacher labels, or a word says otherwise.

    After materialsproject/atomate2#862 and zadorlab/pynta#78.
    """
    seen = set()
    module = types.ModuleType("spins")
    module.factory = lambda: Spins(seen)
    monkeypatch.setitem(sys.modules, "spins", module)
    iron, path = bulk("Fe", cubic=True), tmp_path / "iron.traj"
    iron.set_initial_magnetic_moments([2.2, -2.2])
    ase.io.write(path, iron)

    def label() -> None:
        plan = Plan("spins:factory", (str(path),), n_start=3, n_atoms=8)
        given, teacher = structures(plan.structures), teachers.load(plan.teacher)
        for atoms in sampling.first(plan, given).values():
            teacher.label(atoms)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        words = refusal(label)
    words += "".join([*capsys.readouterr(), *(str(warning.message) for warning in said)])
    assert seen - {0.0} or "magn" in words.lower()


class Moody(EMT):
    """EMT that needs a variable of the environment."""

    def calculate(self, *args, **kwargs):
        """Energies and forces, where the variable is set."""
        if "MOODY_POTENTIALS" not in os.environ:
            raise RuntimeError("MOODY_POTENTIALS is not set")
        super().calculate(*args, **kwargs)


@pytest.mark.usefixtures("_in_this_process")
@pytest.mark.parametrize("mended", ["moody:factory", "emt"])
def test_a_teacher_that_failed_for_a_while_is_asked_again(mended, monkeypatch, refusal, tmp_path):
    """Once the missing variable of a teacher that labeled nothing is set, the same command works.

    So does one with another teacher, in the same folder, which holds nothing of the first one.
    After refuel-ai/autolabel#176 and labmlai/lab#110.
    """
    module = types.ModuleType("moody")
    module.factory = Moody
    monkeypatch.setitem(sys.modules, "moody", module)
    monkeypatch.delenv("MOODY_POTENTIALS", raising=False)
    plan = replace(BRIEF, teacher="moody:factory")
    refused = refusal(distill.run, plan, tmp_path / "out")
    monkeypatch.setenv("MOODY_POTENTIALS", "1")
    outcome = distill.run(replace(plan, teacher=mended), tmp_path / "out")
    assert "MOODY_POTENTIALS is not set" in refused
    assert outcome.record[-1]["frames"] >= 14


def left_handed() -> Atoms:
    """Copper with two of its vectors exchanged."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def skewed() -> Atoms:
    """Rock salt in a cell of long vectors."""
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.set_cell(np.array([[1, 0, 0], [5, 1, 0], [-7, 3, 1]]) @ atoms.cell.array)
    return atoms


CRYSTALS = {
    "left-handed": [left_handed()],
    "skewed": [skewed()],
    "one atom": [bulk("Fe")],
    "hexagonal": [bulk("Mg")],
    "large": [bulk("Cu", cubic=True) * (4, 4, 4)],
    "thin": [bulk("Si") * (1, 1, 9)],
    "the last of two": [bulk("Cu", a=3.5), bulk("Cu", a=3.7)],
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_cells_of_an_odd_crystal_keep_what_it_is(name, tmp_path):
    """Supercells keep density, shortest distance and composition, and frames are made of them.

    After GEMDAT-repos/GEMDAT#343 and materialsproject/pymatgen#637.
    """
    path, last = tmp_path / "structure.traj", CRYSTALS[name][-1]
    ase.io.write(path, CRYSTALS[name])
    (structure,) = structures([str(path)])
    supercell = cells.supercell(structure, 32)
    volumes = (abs(np.linalg.det(atoms.cell.array)) / len(atoms) for atoms in (supercell, last))
    assert next(volumes) == pytest.approx(next(volumes), rel=0, abs=1e-9)
    shortest = closest_pair(last).distance
    assert closest_pair(supercell).distance == pytest.approx(shortest, rel=0, abs=1e-6)
    assert set(supercell.numbers) == set(last.numbers)
    assert len(supercell) % len(last) == 0
    plan = Plan("emt", (str(path),), n_start=6)
    assert sampling.first(plan, [structure])


OPEN_STRUCTURES = {
    "slab": fcc111("Cu", (1, 1, 3), vacuum=6),
    "molecule": molecule("H2O"),
    "no cell": Atoms("Cu", pbc=True),
}


@pytest.mark.parametrize("name", OPEN_STRUCTURES)
def test_a_structure_that_is_no_crystal_is_refused(name, tmp_path):
    """Slabs, molecules and structures without a cell are refused with the name of their file.

    After GEMDAT-repos/GEMDAT#343.
    """
    path = tmp_path / "structure.traj"
    ase.io.write(path, OPEN_STRUCTURES[name])
    with pytest.raises(InputError, match=r"structure\.traj"):
        structures([str(path)])


ALLOY = """data_x
_cell_length_a 3.7
_cell_length_b 3.7
_cell_length_c 3.7
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cu1 Cu 0 0 0 0.5
Au1 Au 0 0 0 0.5
"""


@pytest.mark.filterwarnings("ignore:crystal system .* is not interpreted:UserWarning")
def test_partial_occupancy_is_refused(tmp_path):
    """A crystal whose sites are shared by two elements is no configuration of atoms.

    After GEMDAT-repos/GEMDAT#343 and materialsproject/pymatgen#637.
    """
    path = tmp_path / "alloy.cif"
    path.write_text(ALLOY)
    with pytest.raises(InputError, match="occup"):
        structures([str(path)])


def test_edited_data_do_not_get_the_labels_of_other_frames(tmp_path, refusal):
    """After frames of ``--data`` change places, each has its own label of the teacher, or refusal.

    After ultralytics/ultralytics#26207 and IBM/unitxt#7.
    """
    path, folder, frames = tmp_path / "own.xyz", tmp_path / "out", []
    for seed in range(12):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy() + 100, atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    plan, teacher = Plan("emt", ("Cu",), data=(str(path),)), teachers.load("emt")
    folder.mkdir()

    def prepare() -> list[Atoms]:
        keep(plan, folder)
        return labeled.prepare(plan, labeled.read(plan), folder / "data", teacher)

    ase.io.write(path, frames, format="extxyz")
    prepare()
    ase.io.write(path, frames[::-1], format="extxyz")
    prepared = []
    if not refusal(lambda: prepared.extend(prepare())):
        assert len(prepared) == 12
        for atoms in prepared:
            own = atoms.copy()
            own.calc = EMT()
            taught = atoms.arrays["teacher_forces"]
            np.testing.assert_allclose(taught, own.get_forces(), rtol=0, atol=1e-4)

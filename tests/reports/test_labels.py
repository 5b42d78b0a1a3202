"""Reports about labels: names, layouts, units and files as people have them."""

import gzip

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.db import connect

from kdlib import datasets, hipnn, training
from kdlib.errors import InputError
from kdlib.training import losses

CELL = 'Lattice="4.1 0 0 0 4.1 0 0 0 4.1"'
COPPER = hipnn.HipnnConfig(8, 6, 1, species=("Cu",), cutoff=5.0, soft_max=4.5)


def test_one_stress_under_two_names_and_layouts_is_one_label(tmp_path):
    """A stress that is there twice with the same numbers, as 3x3 and by Voigt, is one label.

    After ACEsuit/mace#994 and libAtoms/GAP#16; ASE turns ``stress`` alone into Voigt's order.
    """
    stress = "-0.012 0.001 0.002 0.001 -0.011 0.003 0.002 0.003 -0.010"
    path = tmp_path / "frames.xyz"
    path.write_text(
        f"2\n{CELL} Properties=species:S:1:pos:R:3:forces:R:3:dft_forces:R:3 energy=-7.25 "
        f'dft_energy=-7.25 stress="{stress}" dft_stress="{stress}" pbc="T T T"\n'
        "Al 0 0 0.1 0.05 -0.02 0.01 0.05 -0.02 0.01\n"
        "Al 0 2.05 2.05 -0.05 0.02 -0.01 -0.05 0.02 -0.01\n"
    )
    (frame,) = datasets.load(path)
    voigt = [-0.012, -0.011, -0.010, 0.003, 0.002, 0.001]
    np.testing.assert_allclose(frame.calc.results["stress"], voigt)


def test_an_isolated_atom_needs_no_forces(tmp_path):
    """The forces on an isolated atom are zero by symmetry, so that its energy is enough.

    After ACEsuit/mace-jax#23, ACEsuit/mace#276 and libAtoms/QUIP#560.
    """
    path = tmp_path / "frames.xyz"
    path.write_text(
        "1\nProperties=species:S:1:pos:R:3 REF_energy=-1.5 config_type=IsolatedAtom "
        'pbc="F F F"\nAl 0 0 0\n'
        f"2\n{CELL} Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-7.2 "
        'pbc="T T T"\nAl 0 0 0.1 0.05 0 0\nAl 0 2.05 2.05 -0.05 0 0\n'
    )
    isolated, _ = datasets.load(path)
    np.testing.assert_array_equal(isolated.calc.results["forces"], np.zeros((1, 3)))


def with_some_stresses() -> list[Atoms]:
    """Thirty copper cells, a third each with virial, stress and neither, and a molecule."""
    frames = []
    for seed in range(30):
        atoms = bulk("Cu", cubic=True, a=3.5 + 0.01 * seed)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        stress = atoms.get_stress(voigt=False)
        if seed % 3 == 0:
            atoms.info["virial"] = -stress * atoms.get_volume()
        if seed % 3 == 1:
            atoms.info["stress"] = stress
        frames.append(atoms)
    frames.append(Atoms("Cu2", [[0, 0, 0], [2.3, 0, 0]], calculator=EMT()))
    for atoms in frames:
        atoms.info["energy"] = atoms.get_potential_energy()
        atoms.arrays["forces"] = atoms.get_forces()
        atoms.calc = None
    return frames


def test_frames_with_and_without_stress_train_together(tmp_path):
    """Virial, stress, neither and a molecule in one file: each stress is right, training is finite.

    After ACEsuit/mace#13 and deepmodeling/dpdata#682.
    """
    frames, path = with_some_stresses(), tmp_path / "frames.xyz"
    ase.io.write(path, frames, format="extxyz")
    loaded = datasets.load(path)
    assert sum("stress" in atoms.calc.results for atoms in loaded) == 20
    for k in (k for k in range(30) if k % 3 != 2):
        expected = frames[k].copy()
        expected.calc = EMT()
        stress = loaded[k].calc.results["stress"]
        np.testing.assert_allclose(stress, expected.get_stress(), rtol=1e-5, atol=1e-6)
    run = training.fit(
        COPPER,
        training.TrainingConfig(max_epochs=3, batch_size=7),
        losses.LossWeights(stress=100.0),
        loaded,
        datasets.split(loaded),
        tmp_path / "run",
    )
    assert np.isfinite(run.history.loss).all()


def test_a_stress_in_another_unit_is_refused(tmp_path):
    """A stress of 251 eV/A^3 (kbar, or a virial) is beyond any matter: refused with its unit.

    After ACEsuit/mace#994, CederGroupHub/chgnet#228 and materialsvirtuallab/matgl#222.
    """
    path = tmp_path / "frames.xyz"
    path.write_text(
        f"2\n{CELL} Properties=species:S:1:pos:R:3:forces:R:3 energy=-7.2 "
        'stress="-251.1 13.8 73.4 13.8 -229.3 -11.8 73.4 -11.8 55.7" pbc="T T T"\n'
        "Al 0 0 0.1 0.05 0 0\nAl 0 2.05 2.05 -0.05 0 0\n"
    )
    with pytest.raises(InputError, match="stress.*eV/A"):
        datasets.load(path)


@pytest.mark.parametrize("layout", ["calculator", "data", "key-value pair and data"])
def test_labels_of_an_ase_database_are_found_in_every_layout(layout, tmp_path):
    """Labels may lie in a row's results, in its ``data`` (SchNetPack) or in key-value pairs.

    After mir-group/nequip#88.
    """
    path, expected = tmp_path / "frames.db", []
    database = connect(str(path))
    for seed in range(4):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        expected.append((energy, forces))
        if layout == "calculator":
            database.write(atoms)
            continue
        atoms.calc = None
        if layout == "data":
            database.write(atoms, data={"energy": np.array([energy]), "forces": forces})
        else:
            pairs = {"total_energy": energy}
            database.write(atoms, key_value_pairs=pairs, data={"forces": forces})
    frames = datasets.load(path)
    assert len(frames) == 4
    for atoms, (energy, forces) in zip(frames, expected, strict=True):
        assert atoms.calc.results["energy"] == pytest.approx(energy)
        np.testing.assert_allclose(atoms.calc.results["forces"], forces)


PLAIN = (
    f"2\n{CELL} Properties=species:S:1:pos:R:3:forces:R:3 "
    'energy=-7.2 pbc="T T T"\nAl 0 0 0.1 0.05 0 0\nAl 0 2.05 2.05 -0.05 0 0\n'
)
ODD_TEXTS = {
    "plain": PLAIN.encode(),
    "CRLF": PLAIN.replace("\n", "\r\n").encode(),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "blank lines at the end": (PLAIN + "\n\n").encode(),
    "no newline at the end": PLAIN.rstrip().encode(),
    "integer forces": PLAIN.replace("0.05 0 0", "1 0 0").replace("forces:R", "forces:I").encode(),
    "quoted number": PLAIN.replace("energy=-7.2", 'energy="-7.2"').encode(),
    "comment in unicode": PLAIN.replace("energy", 'comment="Zelle größer" energy').encode(),
    "id column": PLAIN.replace("species:S:1", "id:I:1:species:S:1")
    .replace("Al 0 0", "1 Al 0 0")
    .replace("Al 0 2", "2 Al 0 2")
    .encode(),
    "atomic numbers": PLAIN.replace("species:S:1", "Z:I:1").replace("Al ", "13 ").encode(),
    "exponents": PLAIN.replace("-7.2", "-7.2E+00").replace("0.05", "5.0D-02").encode(),
    "None and null": PLAIN.replace("pbc", "dipole=None magmom=_JSON null pbc").encode(),
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_text_is_read_or_refused_in_words(name, tmp_path, refusal):
    """Each extxyz file as people have them gives its one frame, or an error that names the file.

    After ACEsuit/mace#364, mir-group/nequip#351 and libAtoms/QUIP#199.
    """
    path = tmp_path / "frames.xyz"
    path.write_bytes(ODD_TEXTS[name])
    message = refusal(datasets.load, path)
    assert str(path) in message if message else len(datasets.load(path)) == 1


def test_a_compressed_file_is_read(tmp_path):
    """An extxyz file that gzip packed is read like the plain one; after libAtoms/QUIP#199."""
    path = tmp_path / "frames.xyz.gz"
    path.write_bytes(gzip.compress(PLAIN.encode()))
    assert len(datasets.load(path)) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("part", "surface"),
        ("part", 3),
        ("frame", "a"),
        ("frame", [1, 2, 3]),
        ("phase", "fcc"),
        ("loss_weight", "high"),
        ("loss_weight", [1, 2]),
        ("loss_weight", -1.0),
        ("molten", "yes"),
        ("config_type", "x"),
        ("frame", True),
    ],
)
def test_own_info_with_a_reserved_name_trains_or_is_named(
    key, value, labeled_copper, tmp_path, refusal
):
    """Information of the user's own under a name that this package uses collides with a word only.

    After ACEsuit/mace#18 and ACEsuit/mace#1335.
    """
    frames, path = labeled_copper(12), tmp_path / "frames.xyz"
    for atoms in frames:
        atoms.info[key] = value
    ase.io.write(path, frames, format="extxyz")

    def train() -> None:
        loaded = datasets.load(path)
        split = datasets.split(loaded, (0.5, 0.25, 0.25))
        settings = training.TrainingConfig(max_epochs=1)
        training.fit(COPPER, settings, losses.LossWeights(), loaded, split, tmp_path / "run")

    message = refusal(train)
    assert not message or key in message

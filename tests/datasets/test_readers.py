"""A user's own files: formats, several files, identities, and impossible frames."""

from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from kdlib import datasets, hipnn, training
from kdlib.errors import InputError
from kdlib.training import roles

VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <incar><i name="ENCUT"> 300.0</i></incar>
 <kpoints><varray name="kpointlist"><v>0.0 0.0 0.0</v></varray>
 <varray name="weights"><v>1.0</v></varray></kpoints>
 <atominfo><atoms> 2 </atoms><types> 2 </types>
  <array name="atoms"><set><rc><c>Cu</c><c>1</c></rc><rc><c>Au</c><c>2</c></rc></set></array>
  <array name="atomtypes"><set><rc><c>1</c><c>Cu</c><c>63.5</c><c>11.0</c><c>PBE</c></rc>
  <rc><c>1</c><c>Au</c><c>197.0</c><c>11.0</c><c>PBE</c></rc></set></array>
 </atominfo>
 <structure name="initialpos"><crystal><varray name="basis"><v>4.0 0.0 0.0</v>
  <v>0.0 4.0 0.0</v><v>0.0 0.0 4.0</v></varray></crystal>
  <varray name="positions"><v>0.0 0.0 0.0</v><v>0.5 0.5 0.5</v></varray></structure>
 <calculation>
  <scstep><energy><i name="e_fr_energy">-6.50</i><i name="e_wo_entrp">-6.40</i>
   <i name="e_0_energy">-6.45</i></energy></scstep>
  <structure><crystal><varray name="basis"><v>4.0 0.0 0.0</v><v>0.0 4.0 0.0</v>
   <v>0.0 0.0 4.0</v></varray></crystal>
   <varray name="positions"><v>0.0 0.0 0.0</v><v>0.5 0.5 0.5</v></varray></structure>
  <varray name="forces"><v>0.1 0.0 0.0</v><v>-0.1 0.0 0.0</v></varray>
  <varray name="stress"><v>10.0 0.0 0.0</v><v>0.0 10.0 0.0</v><v>0.0 0.0 10.0</v></varray>
  <energy><i name="e_fr_energy">-6.50</i><i name="e_wo_entrp">-6.40</i>
   <i name="e_0_energy">-6.45</i></energy>
 </calculation>
</modeling>
"""

PWSCF = """     Program PWSCF v.7.3 starts
     number of atoms/cell      =            2
     number of atomic types    =            2
     celldm(1)=   7.558904  celldm(2)=   0.000000  celldm(3)=   0.000000
     crystal axes: (cart. coord. in units of alat)
               a(1) = (   1.000000   0.000000   0.000000 )
               a(2) = (   0.000000   1.000000   0.000000 )
               a(3) = (   0.000000   0.000000   1.000000 )
     site n.     atom                  positions (alat units)
         1           Cu  tau(   1) = (   0.0000000   0.0000000   0.0000000  )
         2           Au  tau(   2) = (   0.5000000   0.5000000   0.5000000  )
!    total energy              =     -10.00000000 Ry
     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =     0.00100000    0.00000000    0.00000000
     atom    2 type  2   force =    -0.00100000    0.00000000    0.00000000
          total   stress  (Ry/bohr**3)                   (kbar)     P=       14.71
   0.00010000   0.00000000   0.00000000           14.71        0.00        0.00
   0.00000000   0.00010000   0.00000000            0.00       14.71        0.00
   0.00000000   0.00000000   0.00010000            0.00        0.00       14.71
"""


def test_output_of_quantum_espresso_is_converted_from_rydberg(tmp_path):
    """-10 Ry, 0.001 Ry/Bohr and a pressure of 14.71 kbar, in eV, eV/Angstrom, and as a stress."""
    path = tmp_path / "pw.out"
    path.write_text(PWSCF)
    (atoms,) = datasets.load(path)
    assert atoms.cell.lengths() == pytest.approx(4.0, abs=1e-4)
    assert atoms.get_potential_energy() == pytest.approx(-136.057, abs=1e-3)
    assert atoms.get_forces()[0, 0] == pytest.approx(0.001 * 25.7110, rel=1e-4)
    np.testing.assert_allclose(atoms.get_stress()[:3] * 1602.177, -14.71, rtol=1e-3)


def test_output_of_vasp_gives_the_free_energy_and_a_pressure(tmp_path):
    """VASP's free energy belongs to its forces; 10 kbar of pressure are a stress of -1 GPa."""
    path = tmp_path / "vasprun.xml"
    path.write_text(VASPRUN)
    (atoms,) = datasets.load(path)
    assert datasets.species([atoms]) == ("Cu", "Au")
    assert atoms.get_potential_energy() == -6.5
    np.testing.assert_allclose(atoms.get_forces()[:, 0], [0.1, -0.1])
    np.testing.assert_allclose(atoms.get_stress()[:3] * 160.2177, -1.0, rtol=1e-4)


@pytest.mark.parametrize("name", ["set.extxyz", "set.traj", "set.db", "set.json", "set@1.extxyz"])
def test_formats_of_ase_keep_labels_and_stress(tmp_path, alloy, name):
    """Text, trajectories and databases come back with energy, forces, stress and structure."""
    path = tmp_path / name
    if path.suffix in (".db", ".json"):
        with ase.db.connect(path) as database:
            for atoms in alloy[:4]:
                database.write(atoms)
    else:
        write(path, alloy[:4])
    frames = datasets.load(path)
    assert len(frames) == 4
    for old, new in zip(alloy, frames, strict=False):
        assert new.get_chemical_formula() == old.get_chemical_formula()
        for label in ("energy", "forces", "stress"):
            np.testing.assert_allclose(
                new.calc.results[label], old.calc.results[label], atol=1e-7, rtol=1e-7
            )


def test_several_files_keep_their_frames_apart(tmp_path, alloy):
    """From a pattern, identities name file and place; another file moves no frame elsewhere."""
    for name, part in (("b", alloy[:20]), ("c", alloy[20:30])):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "run.extxyz", part)
    pattern = str(tmp_path / "*" / "run.extxyz")
    few = datasets.load(pattern)
    assert datasets.identity(few[0]) == "b/run.extxyz:0"
    assert datasets.identity(few[-1]) == "c/run.extxyz:9"
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "run.extxyz", alloy[30:])
    more = datasets.load(pattern)
    assert len(more) == len(few) + 10
    part = {
        datasets.identity(more[k]): name
        for name in datasets.PARTS
        for k in getattr(datasets.split(more), name)
    }
    split = datasets.split(few)
    for name in datasets.PARTS:
        assert all(part[datasets.identity(few[k])] == name for k in getattr(split, name))


def test_a_list_of_files_is_one_set(tmp_path, alloy, clusters):
    """Files named one by one, in different formats, with cells and with molecules."""
    write(tmp_path / "cells.traj", alloy)
    write(tmp_path / "molecules.extxyz", clusters)
    frames = datasets.load([tmp_path / "cells.traj", tmp_path / "molecules.extxyz"])
    assert len(frames) == len(alloy) + len(clusters)
    assert datasets.identity(frames[-1]) == "molecules.extxyz:11"
    assert {bool(atoms.pbc.all()) for atoms in frames} == {True, False}
    with pytest.raises(InputError, match=r"cells\.traj: named twice"):
        datasets.load([tmp_path / "cells.traj", str(tmp_path / "*.traj")])


def test_own_numbers_of_frames_are_kept_only_if_unique(tmp_path, alloy):
    """`frame` in the file is the identity, unless two frames have the same."""
    for numbers, expected in (([7, 9, 8], [7, 9, 8]), ([7, 7, 8], [0, 1, 2])):
        frames = [atoms.copy() for atoms in alloy[:3]]
        for old, new, number in zip(alloy, frames, numbers, strict=False):
            new.calc, new.info["frame"] = old.calc, number
        write(tmp_path / "set.extxyz", frames)
        assert datasets.frame_numbers(datasets.load(tmp_path / "set.extxyz")).tolist() == expected


def test_relative_and_absolute_paths_name_the_same_frames(tmp_path, monkeypatch, alloy):
    """Identities are those below the common folder, however each file is named, and from where."""
    for name, part in (("one", alloy[:2]), ("two", alloy[2:4])):
        (tmp_path / "home" / name).mkdir(parents=True)
        write(tmp_path / "home" / name / "a.xyz", part)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home" / "one")
    absolute = [tmp_path / "home" / name / "a.xyz" for name in ("one", "two")]
    expected = ["one/a.xyz:0", "one/a.xyz:1", "two/a.xyz:0", "two/a.xyz:1"]
    for paths in (absolute, ["a.xyz", absolute[1]], ["a.xyz", "../two/a.xyz"], "~/*/a.xyz"):
        assert [datasets.identity(atoms) for atoms in datasets.load(paths)] == expected
    with pytest.raises(InputError, match=r"a\.xyz: named twice"):
        datasets.load(["a.xyz", absolute[0]])


ODD = ("mysql data/set.xyz", "[v2]/set*.xyz", "OUTCAR.xyz", "CONFIG_1.XYZ", "50% #1?.db",
       "x@-1.traj", "POSCAR [2].extxyz.gz")  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_names_of_files_and_folders_mean_nothing(tmp_path, monkeypatch, alloy, name):
    """No name is taken for a database's address, a pattern, an index or another code's output."""
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".db":
        with ase.db.connect(path) as database:
            for atoms in alloy[:3]:
                database.write(atoms)
    else:
        kind = "traj" if path.suffix == ".traj" else "extxyz"
        write(path, alloy[:3], format=kind)
    assert len(datasets.load(name)) == 3
    if path.parent.name:
        assert len(datasets.load(f"{path.parent}/*")) == 3


def test_an_existing_name_is_no_pattern(tmp_path, alloy):
    """A folder with brackets is that folder, beside others that the brackets would match."""
    for name, part in (("[ab]", alloy[:1]), ("a", alloy[1:3])):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "set.xyz", part)
    assert len(datasets.load(tmp_path / "[ab]" / "*.xyz")) == 1
    assert len(datasets.load(tmp_path / "[a]" / "*.xyz")) == 2


def test_text_is_utf8_with_or_without_a_mark(tmp_path):
    """What an editor puts before the text, a comment beyond ASCII and CRLF change nothing."""
    text = (
        '2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-7.2 note="größer" pbc="F F F"\n'
        "Al 0 0 0.1 0.05 0 0\nAl 0 2.05 2.05 -0.05 0 0\n"
    )
    second = text.replace("0.1", "0.2")
    for mark, end in (("", "\n"), ("\ufeff", "\n"), ("\ufeff", "\r\n")):
        path = tmp_path / "set.xyz"
        path.write_bytes((mark + text + second).replace("\n", end).encode())
        frames = datasets.load(path)
        assert [atoms.info["note"] for atoms in frames] == ["größer", "größer"]
        assert frames[1].positions[0, 2] == 0.2


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("absent.xyz", r"absent\.xyz: neither a file nor one of the datasets al-pbe, ani-al"),
        ("*.absent", r"\*\.absent: matches no file"),
    ],
)
def test_files_that_are_not_there_are_named(tmp_path, named, message):
    """A path and a pattern without a file are errors that say which."""
    with pytest.raises(InputError, match=message):
        datasets.load(tmp_path / named)


@pytest.mark.parametrize("name", ["a.extxyz", "a.db", "a.json", "a.traj", "a.h5", "OUTCAR"])
def test_files_of_no_length_are_called_empty(tmp_path, name):
    """Whatever the format, a file of zero bytes is said to be one."""
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{name}: is empty"):
        datasets.load(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "rule"),
    [("\n\n", "holds no frames"), ("0\nenergy=1.0\n", "frame 0: holds no atoms")],
)
def test_files_without_content_are_named(tmp_path, text, rule):
    """A file of blank lines holds no frames, a frame of zero atoms no atoms."""
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(InputError, match=rf"a\.xyz: {rule}"):
        datasets.load(tmp_path / "a.xyz")


def test_foreign_files_are_named(tmp_path):
    """What no reader of ASE knows."""
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(InputError, match=r"notes\.txt: frame 0: .*that of a known format"):
        datasets.load(tmp_path / "notes.txt")


def frame(**changed: object) -> Atoms:
    """Two copper atoms that repel."""
    forces = np.array([[-1.0, 0, 0], [1.0, 0, 0]])
    atoms = Atoms("Cu2", [[0, 0, 0], [2.3, 0, 0]], cell=[9, 9, 9], pbc=True)
    labels = {"energy": -3.0, "forces": forces} | changed
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


@pytest.mark.parametrize(
    ("forces", "rule"),
    [
        ([[-2e3, 0, 0], [2e3, 0, 0]], r"has a force of 2e\+03 eV/Angstrom, larger than 1000"),
        ([[1.0, 0, 0], [0, 0, 0]], "its forces add up to 0.5 eV/Angstrom for each atom"),
    ],
)
def test_impossible_forces_are_refused(tmp_path, forces, rule):
    """Impossible forces, and forces without an energy, are refused with file, frame and rule."""
    write(tmp_path / "set.traj", [frame(), frame(forces=np.array(forces))])
    with pytest.raises(InputError, match=rf"set\.traj: frame 1: {rule}"):
        datasets.load(tmp_path / "set.traj")


def test_small_net_force_is_a_grids(tmp_path):
    """A net force of some 0.01 eV/Angstrom per atom, as plane waves leave, is accepted."""
    write(tmp_path / "set.traj", frame(forces=np.array([[-0.98, 0, 0], [1.0, 0, 0]])))
    assert len(datasets.load(tmp_path / "set.traj")) == 1


def test_partly_occupied_sites_are_refused(tmp_path, alloy):
    """Labels can't belong to atoms of which a file holds only a part."""
    path = tmp_path / "own.xyz"
    shared = alloy[1].copy()
    shared.calc = alloy[1].calc
    shared.set_array("occupancy", np.linspace(0.5, 1, len(shared)))
    write(path, [alloy[0], shared], format="extxyz")
    with pytest.raises(InputError, match=r"own\.xyz: frame 1: the site of atom 0 .* occupied"):
        datasets.load(path)


def test_repeated_configurations_are_refused(tmp_path, alloy):
    """A repeated frame could be both trained on and tested; with two energies one must be wrong."""
    write(tmp_path / "a.traj", alloy[:3])
    write(tmp_path / "b.traj", [alloy[5], alloy[2]])
    with pytest.raises(InputError, match=r"b\.traj: frame 1: is .*a\.traj: frame 2 again; remove"):
        datasets.load([tmp_path / "a.traj", tmp_path / "b.traj"])
    with pytest.raises(InputError, match=r"frame 1: .*frame 0 again with another energy \(-4 eV, "):
        datasets.check([frame(), frame(energy=-4.0)], "set")


def test_two_species_with_and_without_a_cell_are_learned(tmp_path, alloy, clusters):
    """From files to predictions: half the force error of the first epoch, and below the forces.

    The test error of a model that predicts no forces is their root mean square.
    """
    write(tmp_path / "cells.extxyz", alloy)
    write(tmp_path / "molecules.extxyz", clusters)
    frames = datasets.load(str(tmp_path / "*.extxyz"))
    split = datasets.split(frames)
    config = hipnn.HipnnConfig(
        10, 10, 1, species=datasets.species(frames), cutoff=5.5, soft_max=5.0, dtype="float64"
    )
    assert config.species == ("Cu", "Au")
    settings = training.TrainingConfig(batch_size=2, max_epochs=60, learning_rate=5e-3)
    schedule = roles.role("teacher").schedule(60)
    run = training.fit(config, settings, schedule, frames, split, tmp_path / "run")
    force = run.history.force_rmse.sel(split="valid")
    assert float(force.min()) < 0.5 * float(force[0])
    test = [frames[k] for k in split.test]
    assert {bool(atoms.pbc.all()) for atoms in test} == {True, False}
    predicted = run.potential.predict(test)
    assert np.isfinite(predicted.energy).all()
    forces = np.concatenate([atoms.get_forces() for atoms in test])
    assert np.sqrt(((predicted.forces.values - forces) ** 2).mean()) < 0.5 * forces.std()


def database(path: Path, frames: list[Atoms], units: dict[str, str] | None = None) -> Path:
    """Write frames whose labels stand in the data of their rows, a custom energy beside them."""
    with ase.db.connect(str(path)) as rows:
        for k, atoms in enumerate(frames):
            known, copy = atoms.calc.results, atoms.copy()
            pairs = {"E_mine": known["energy"], "frame": 100 + k}
            data = {"F_mine": known["forces"], "stress": known["stress"], "frame": np.zeros(3)}
            rows.write(copy, key_value_pairs=pairs, data=data)
        if units:
            rows.metadata = {"_property_unit_dict": units, "_distance_unit": "Ang"}
    return path


@pytest.mark.parametrize("ending", ["db", "json"])
def test_labels_beside_the_rows_of_a_database_are_found(tmp_path, alloy, ending):
    """Own names and usual ones in `data` and key-value pairs, whatever the database's file."""
    path = database(tmp_path / f"set.{ending}", alloy[:3])
    frames = datasets.load(path, energy_key="E_mine", forces_key="F_mine")
    assert datasets.frame_numbers(frames).tolist() == [100, 101, 102]
    for old, new in zip(alloy, frames, strict=False):
        for label in ("energy", "forces", "stress"):
            np.testing.assert_allclose(new.calc.results[label], old.calc.results[label], rtol=1e-12)
        assert set(new.info) == {"frame"}
    with pytest.raises(InputError, match=r"frame 0: has no 'E'; it holds E_mine, F_mine, frame"):
        datasets.load(path, energy_key="E")


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ({"E_mine": "eV", "F_mine": "eV/Ang", "stress": "eV/Ang^3"}, None),
        ({"E_mine": "eV", "F_mine": "eV / Angstrom", "dipole": "Debye"}, None),
        ({"E_mine": "kcal/mol", "F_mine": "eV/Ang"}, "keeps E_mine in kcal/mol"),
        ({"E_mine": "eV", "F_mine": "Ha/Bohr"}, "keeps F_mine in Ha/Bohr"),
        ({"E_mine": "eV", "F_mine": "eV/Ang", "stress": "GPa"}, "keeps stress in GPa"),
    ],
)
def test_units_that_a_database_states_are_ours(tmp_path, alloy, units, said):
    """A database that says it is in kcal/mol, as SchNetPack writes it, is not read as eV."""
    path = database(tmp_path / "set.db", alloy[:2], units)
    if said is None:
        assert len(datasets.load(path, "E_mine", "F_mine")) == 2
        return
    with pytest.raises(InputError, match=rf"set\.db: .*{said}, must be in eV and Angstrom"):
        datasets.load(path, "E_mine", "F_mine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1\n\nAl1 0 0 0\n", "'Al1' is unknown"), ("2\n", "it ends within a frame")],
)
def test_the_reason_of_an_unreadable_frame_is_a_sentence(tmp_path, text, reason):
    """Errors of ASE's readers that are but a word or a class say what they mean."""
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(InputError, match=rf"a\.xyz: frame 0: ASE cannot read it \({reason}\)"):
        datasets.load(tmp_path / "a.xyz")

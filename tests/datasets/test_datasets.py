"""Reference data: what ships, how it is checked, how it is divided."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from kdlib import datasets
from kdlib.datasets import registry
from kdlib.errors import InputError


def labeled(atoms: Atoms, **results) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture
def frame() -> Atoms:
    atoms = Atoms("Al2", [[0, 0, 0], [2.5, 0, 0]], cell=[6, 6, 6], pbc=True)
    return labeled(atoms, energy=-6.0, forces=np.zeros((2, 3)))


def test_embedded_data_are_physical_aluminum():
    """PBE aluminum: bound by 2 to 4 eV per atom, less if compressed; no net force; a true card."""
    frames = datasets.load("al-pbe")
    assert len({datasets.identity(atoms) for atoms in frames}) == len(frames) >= 99
    for atoms in frames:
        assert set(atoms.symbols) == {"Al"}
        compressed = 4000 <= int(atoms.info["frame"]) < 5000
        assert -4 < atoms.get_potential_energy() / len(atoms) < (0 if compressed else -2)
        assert np.abs(atoms.get_forces().sum(0)).max() < 0.05 * len(atoms) ** 0.5
    card = datasets.card("al-pbe")
    assert f"{len(frames)}: " in card
    assert "PBE" in card


def test_solid_is_bound_more_strongly_than_the_liquid():
    """Mean energy per atom of fcc frames lies below that of liquid frames."""
    frames = datasets.load("al-pbe")
    mean = {
        phase: np.mean(
            [a.get_potential_energy() / len(a) for a in frames if a.info["phase"] == phase]
        )
        for phase in ("fcc", "liquid")
    }
    assert mean["fcc"] < mean["liquid"] - 0.1


def test_altered_data_file_is_refused(monkeypatch, tmp_path):
    """One flipped byte in the embedded file is an error that names the file."""
    for source in registry.folder().iterdir():
        if source.is_file():
            (tmp_path / source.name).write_bytes(source.read_bytes())
    packed = tmp_path / "al-pbe.extxyz.xz"
    content = bytearray(packed.read_bytes())
    content[1000] ^= 1
    packed.write_bytes(content)
    monkeypatch.setattr(registry, "folder", lambda: tmp_path)
    with pytest.raises(InputError, match=r"al-pbe\.extxyz\.xz: altered or truncated"):
        datasets.load("al-pbe")


def test_own_file_keeps_energies_and_forces(tmp_path, emt_frames):
    """An extxyz file comes back with the labels it was written with."""
    path = tmp_path / "own.extxyz"
    write(path, emt_frames[:5])
    back = datasets.load(path)
    for old, new in zip(emt_frames, back, strict=False):
        assert new.get_potential_energy() == pytest.approx(old.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(new.get_forces(), old.get_forces(), atol=1e-7)


def break_energy(a):
    labeled(a, energy=np.nan, forces=np.zeros((2, 3)))


def break_forces(a):
    labeled(a, energy=-6.0, forces=np.full((2, 3), np.inf))


def forget_forces(a):
    labeled(a, energy=-6.0)


def forget_energy(a):
    labeled(a, forces=np.zeros((2, 3)))


def break_stress(a):
    labeled(a, energy=-6.0, forces=np.zeros((2, 3)), stress=np.full(6, np.nan))


def flatten_stress(a):
    a.calc.results["stress"] = np.zeros(9)


def break_energies(a):
    labeled(a, energy=-6.0, forces=np.zeros((2, 3)), energies=[-3.0, np.inf])


def lose_an_energy(a):
    a.calc.results["energies"] = np.zeros(1)


def break_periodicity(a):
    a.pbc = (True, True, False)


def forget_cell(a):
    a.cell = np.zeros((3, 3))


def collide(a):
    a.positions[1] = [0.3, 0, 0]


def collide_with_image(a):
    a.positions[1] = [5.8, 0, 0]


def lose_positions(a):
    a.positions[0, 0] = np.nan


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (break_energy, "energy is not finite"),
        (break_forces, "forces is not finite"),
        (forget_forces, "has no forces"),
        (forget_energy, "has no energy"),
        (break_stress, "stress is not finite"),
        (flatten_stress, r"stress has shape \(9,\), must be \(6,\)"),
        (break_energies, "energies is not finite"),
        (lose_an_energy, r"energies has shape \(1,\), must be \(2,\)"),
        (break_periodicity, "periodic along some"),
        (forget_cell, "periodic without a cell"),
        (collide, "0.30 Angstrom apart"),
        (collide_with_image, "0.20 Angstrom apart"),
        (lose_positions, "positions or cell are not finite"),
    ],
)
def test_broken_frame_is_named(frame, fault, rule):
    """The message names the source, the frame and the rule, for each kind of fault."""
    broken = labeled(frame.copy(), energy=-6.0, forces=np.zeros((2, 3)))
    fault(broken)
    with pytest.raises(InputError, match=rf"set\.xyz: frame 1: .*{rule}"):
        datasets.check([frame, broken], "set.xyz")


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(3) / 9])
def test_the_cell_of_a_molecule_breaks_no_rule(frame, cell):
    """A molecule passes whatever its cell is, and is recognized again under another one."""
    molecule = labeled(frame.copy(), energy=-6.0, forces=np.zeros((2, 3)))
    molecule.pbc = False
    again = labeled(molecule.copy(), energy=-6.0, forces=np.zeros((2, 3)))
    again.set_cell(cell)
    datasets.check([again], "set.xyz")
    with pytest.raises(InputError, match="is the configuration of frame 0 again"):
        datasets.check([molecule, again], "set.xyz")


def test_wrong_array_length_is_named(frame):
    """Forces on another number of atoms are refused."""
    frame.calc.results["forces"] = np.zeros((3, 3))
    with pytest.raises(InputError, match=r"forces has shape \(3, 3\), must be \(2, 3\)"):
        datasets.check([frame], "set.xyz")


def test_truncated_file_is_named(tmp_path, emt_frames):
    """A file that ends in the middle of a frame is an error naming file and frame."""
    path = tmp_path / "cut.extxyz"
    write(path, emt_frames[:3])
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:-2]))
    with pytest.raises(InputError, match=r"cut\.extxyz: frame"):
        datasets.load(path)


def test_missing_file_and_unknown_name():
    """Neither a file nor a dataset: the message lists the datasets there are."""
    with pytest.raises(InputError, match="al-pbe"):
        datasets.load("al-pbee")


def test_frame_keeps_its_part_when_the_dataset_grows(emt_frames):
    """The part follows from the frame's identity and the seed alone."""
    small, large = datasets.split(emt_frames[:30]), datasets.split(emt_frames)
    for part in ("train", "valid", "test"):
        kept = [k for k in getattr(large, part) if k < 30]
        assert list(getattr(small, part)) == kept


def test_split_is_a_partition_in_the_right_proportions():
    """Parts do not overlap and cover everything; 4,000 frames come out at 80/10/10."""
    atoms = Atoms("Al", [[0, 0, 0]])
    frames = []
    for k in range(4000):
        copy = labeled(atoms.copy(), energy=-1.0, forces=np.zeros((1, 3)))
        copy.info["frame"] = k
        frames.append(copy)
    split = datasets.split(frames)
    together = np.concatenate([getattr(split, part) for part in datasets.PARTS])
    assert sorted(together) == list(range(4000))
    assert len(split.train) / 4000 == pytest.approx(0.8, abs=0.02)
    assert len(split.test) / 4000 == pytest.approx(0.1, abs=0.02)
    assert list(datasets.split(frames, seed=1).test) != list(split.test)


def test_large_cells_test_transfer_and_chosen_frames_only_train():
    """Of al-pbe, frames 5000 to 5999 are the transfer part; those from 6000 on only train."""
    frames = datasets.load("al-pbe")
    split = datasets.split(frames)

    def kinds(part):
        return {int(frames[k].info["frame"]) // 1000 for k in part}

    assert kinds(split.transfer) == {5}
    assert max(kinds(split.train)) >= 6
    assert max(kinds(np.concatenate([split.valid, split.test]))) < 5


def _extreme(emt_frames) -> tuple[list[Atoms], set[int]]:
    """Frames of which three that the hash draws for validation or test are made extreme."""
    split = datasets.split(emt_frames)
    frames = [atoms.copy() for atoms in emt_frames]
    for old, new in zip(emt_frames, frames, strict=True):
        labeled(new, energy=old.calc.results["energy"], forces=old.calc.results["forces"])
    close, dense, thin = (int(k) for k in (split.valid[0], split.valid[1], split.test[0]))
    pair = frames[close].get_distance(0, 1, mic=True)
    frames[close].set_distance(0, 1, 0.5 * pair, mic=True)
    for k, scale in ((dense, 0.8), (thin, 1.3)):
        frames[k].set_cell(frames[k].cell.array * scale, scale_atoms=True)
    return frames, {close, dense, thin}


def test_training_keeps_the_extremes(emt_frames):
    """A close pair, a dense and a thin frame leave test and validation; no other frame moves."""
    frames, extreme = _extreme(emt_frames)
    bounds = datasets.Extremes.of(emt_frames, share=0)
    assert not any(bounds.hold(atoms) for atoms in emt_frames)
    assert {k for k, atoms in enumerate(frames) if bounds.hold(atoms)} == extreme
    before, after = datasets.split(frames), datasets.split(frames, extremes=bounds)
    assert set(after.train) == set(before.train) | extreme
    assert set(after.test) == set(before.test) - extreme
    assert set(after.valid) == set(before.valid) - extreme
    assert set(after.moved) == {datasets.identity(frames[k]) for k in extreme}
    assert after.sha256 != before.sha256


def test_bounds_of_own_data_are_kept(emt_frames, tmp_path):
    """The bounds of the first load hold for more extreme frames, but not for other species."""
    path = tmp_path / "split.json"
    first = datasets.kept_extremes(emt_frames, path)
    assert first == datasets.Extremes.of(emt_frames)
    frames, extreme = _extreme(emt_frames)
    assert datasets.kept_extremes(frames, path) == first != datasets.Extremes.of(frames)
    assert all(first.hold(frames[k]) for k in extreme)
    for atoms in frames:
        atoms.numbers[:] = 29
    assert datasets.kept_extremes(frames, path) == datasets.Extremes.of(frames)


def test_bounds_of_equal_frames_move_none(emt_frames):
    """Cells of one density and one closest pair are all ordinary; so are single molecules."""
    same = [emt_frames[0]] * 50
    assert not any(datasets.Extremes.of(same).hold(atoms) for atoms in same)
    lone = [Atoms("Al", [[0, 0, 0]])] * 3
    assert not any(datasets.Extremes.of(lone).hold(atoms) for atoms in lone)


def test_split_hash_covers_data_and_division(emt_frames):
    """Another seed, another label or another fraction changes the hash; repeating does not."""
    reference = datasets.split(emt_frames).sha256
    assert datasets.split(emt_frames).sha256 == reference
    assert datasets.split(emt_frames, seed=3).sha256 != reference
    assert datasets.split(emt_frames, fractions=(0.7, 0.15, 0.15)).sha256 != reference
    changed = [a.copy() for a in emt_frames]
    for old, new in zip(emt_frames, changed, strict=True):
        labeled(new, energy=old.calc.results["energy"], forces=old.calc.results["forces"])
    assert datasets.split(changed).sha256 == reference
    changed[7].calc.results["energy"] += 1e-9
    assert datasets.split(changed).sha256 != reference


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.9, 0.1)])
def test_impossible_fractions_are_refused(emt_frames, fractions):
    """Three positive numbers adding up to one, or an error."""
    with pytest.raises(InputError, match="fractions"):
        datasets.split(emt_frames, fractions=fractions)


def test_empty_part_is_refused(emt_frames):
    """Too few frames for a test part are an error, not an empty test."""
    with pytest.raises(InputError, match="part empty"):
        datasets.split(emt_frames[:2])

"""Frames that carry atomic energies, in memory and in a result file."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from kdlib import datasets, results
from kdlib.errors import InputError
from kdlib.hipnn import batches


@pytest.fixture
def frames():
    """Cells of 4, 1 and 8 atoms with every label but atomic energies."""
    found = []
    for k, cell in enumerate(
        (bulk("Al", cubic=True), bulk("Al"), bulk("Al", cubic=True) * (2, 1, 1))
    ):
        labels = {"energy": -3.0 * len(cell), "free_energy": -3.1 * len(cell)}
        labels |= {"forces": np.full((len(cell), 3), 0.1 * k), "stress": np.arange(6.0)}
        cell.info.update(frame=k, loss_weight=2.0)
        cell.new_array("tag", np.arange(len(cell)))
        cell.set_constraint(FixAtoms([0]))
        cell.calc = SinglePointCalculator(cell, **labels)
        found.append(cell)
    return found


def values(frames, shift=0.0):
    """Different energies for every atom, eV."""
    return [np.arange(len(atoms)) * 0.1 + shift + len(atoms) for atoms in frames]


def test_everything_else_of_a_frame_stays(frames):
    """Structure, labels, information, arrays and constraints are the frame's; the frame is not."""
    energies = values(frames)
    for atoms, augmented, own in zip(
        frames, datasets.with_energies(frames, energies), energies, strict=True
    ):
        assert augmented == atoms
        assert augmented.info == atoms.info
        np.testing.assert_array_equal(augmented.arrays["tag"], atoms.arrays["tag"])
        assert augmented.constraints[0].index == atoms.constraints[0].index
        known = augmented.calc.results
        assert set(known) == {*atoms.calc.results, "energies"}
        for name, value in atoms.calc.results.items():
            np.testing.assert_array_equal(known[name], value)
        np.testing.assert_array_equal(datasets.atomic_energies(augmented), own)
        assert datasets.atomic_energies(atoms) is None
    augmented = datasets.with_energies(frames, energies)
    assert datasets.fingerprint(augmented) == datasets.fingerprint(frames)


def test_a_batch_reads_them_like_forces(frames):
    """Atom by atom, frame by frame."""
    energies = values(frames)
    parts = [batches.from_atoms(a, 5.0) for a in datasets.with_energies(frames, energies)]
    found = batches.collate(parts).atomic_energies
    np.testing.assert_array_equal(found, np.concatenate(energies).astype(np.float32))


@pytest.mark.parametrize("wrong", [[np.nan] * 4, [1.0] * 3, 1.0])
def test_wrong_energies_are_refused(frames, wrong):
    """Energies that are not finite, or not one per atom, are refused with the frame's name."""
    with pytest.raises(InputError, match="frame 0: the teacher's atomic energies are not 4 finite"):
        datasets.with_energies(frames, [np.array(wrong), *values(frames)[1:]])


def test_a_batch_refuses_energies_of_another_shape(frames):
    """Whatever put them there."""
    frames[0].calc.results["energies"] = np.zeros(3)
    with pytest.raises(InputError, match=r"frame 0: atomic energies have shape \(3,\), must be"):
        batches.from_atoms(frames[0], 5.0)


def test_a_result_file_gives_back_every_teachers_frames(frames, tmp_path):
    """Bit by bit, seed by seed."""
    teachers = {s: datasets.with_energies(frames, values(frames, s / 3)) for s in (0, 7)}
    path = results.save(datasets.energies_table(teachers), tmp_path / "a.nc", kind="labels")
    found = datasets.augmented(frames, results.load(path, "labels"))
    assert list(found) == [0, 7]
    for seed, augmented in found.items():
        for one, other in zip(augmented, teachers[seed], strict=True):
            assert one == other
            np.testing.assert_array_equal(
                one.calc.results["energies"], other.calc.results["energies"]
            )


def test_a_result_file_of_other_frames_is_refused(frames, tmp_path):
    """The same number of atoms in frames of other sizes is another dataset."""
    teachers = {0: datasets.with_energies(frames, values(frames))}
    path = results.save(datasets.energies_table(teachers), tmp_path / "a.nc", kind="labels")
    table = results.load(path, "labels")
    with pytest.raises(InputError, match=r"a\.nc: holds 13 atoms in other frames than the 13 "):
        datasets.augmented(frames[::-1], table)
    with pytest.raises(InputError, match="than the 5 atoms of the 2 frames"):
        datasets.augmented(frames[:2], table)
    with pytest.raises(InputError, match="frame 1: carries no atomic energies"):
        datasets.energies_table({0: [teachers[0][0], frames[1]]})

"""Ranges of a training set, and the calculator's warning outside them."""

import json
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from kdlib import hipnn
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.hipnn.calculator import CHECK_EVERY, HipnnCalculator, UnseenWarning
from kdlib.hipnn.potential import Validity

CUTOFF = 5.0


def crowding_by_hand(atoms, i, cutoff):
    """Sum over images, written out."""
    total = 0.0
    for shift in np.stack(np.meshgrid(*[range(-3, 4)] * 3), -1).reshape(-1, 3):
        for j in range(len(atoms)):
            r = np.linalg.norm(atoms.positions[j] + shift @ atoms.cell.array - atoms.positions[i])
            if 1e-9 < r < cutoff:
                total += (1 - (r / cutoff) ** 2) ** 2
    return total


def rattled(scale=1.0, seed=0):
    """Cu3Au-like cell, rattled."""
    atoms = bulk("Cu", cubic=True)
    atoms.numbers[0] = 79
    atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_crowding_by_hand():
    """Smallest and largest crowding of a species are those of a sum over images written out."""
    atoms = rattled()
    low, high = Validity.of([atoms], CUTOFF).crowding["Cu"]
    by_hand = [crowding_by_hand(atoms, i, CUTOFF) for i in range(1, 4)]
    assert low == pytest.approx(min(by_hand), rel=1e-12)
    assert high == pytest.approx(max(by_hand), rel=1e-12)


def test_closest_pairs_by_species():
    """Pairs are told apart by their species, in whichever order they come."""
    found = Validity.of([rattled()], CUTOFF).closest
    assert set(found) == {"Au-Au", "Au-Cu", "Cu-Cu"}
    assert found["Au-Au"] == pytest.approx(bulk("Cu", cubic=True).cell.lengths()[0], rel=1e-12)


def test_training_frames_are_inside():
    """No frame leaves the ranges that it was among the frames of."""
    frames = [rattled(scale, k) for k, scale in enumerate((0.95, 1.0, 1.1))]
    ranges = Validity.of(frames, CUTOFF)
    assert [ranges.left_by(atoms) for atoms in frames] == [[], [], []]


@pytest.mark.parametrize(
    ("scale", "words"), [(0.8, ["closer", "more crowded"]), (1.4, ["less crowded"])]
)
def test_compressed_and_expanded_crystals_are_outside(scale, words):
    """What is closer or more crowded, or less crowded, is named as that."""
    said = " ".join(map(str, Validity.of([rattled()], CUTOFF).left_by(rattled(scale))))
    for word in words:
        assert word in said


def test_unseen_pairs_are_outside():
    """A pair of species that training never brought together is named."""
    apart = Atoms("CuAu", [[0, 0, 0], [0, 0, 8]])
    ranges = Validity.of([apart], CUTOFF)
    found = ranges.left_by(Atoms("CuAu", [[0, 0, 0], [0, 0, 3]]))[0]
    assert (found.kind, found.species, found.value) == ("unseen pair", "Au-Cu", 3.0)
    assert str(found) == "a pair Au-Cu is closer than 5 Angstrom, and none was in training"


def test_ranges_survive_the_model_file(tmp_path):
    """Saved with a model and loaded, they are the same numbers."""
    ranges = Validity.of([rattled()], CUTOFF)
    module = hipnn.build(HipnnConfig(8, 8, 1, species=("Cu", "Au")))
    hipnn.save(module, tmp_path, {"validity": ranges.record()})
    assert hipnn.load(tmp_path).validity == Validity.from_record(
        json.loads(json.dumps(ranges.record()))
    )


def test_calculator_warns_once_outside_and_never_inside():
    """A compressed crystal is warned of, the training frame is not; a second look says nothing."""
    module = hipnn.build(HipnnConfig(8, 8, 1, species=("Cu", "Au"), cutoff=CUTOFF, soft_max=4.5))
    potential = Potential(module, validity=Validity.of([rattled()], CUTOFF))
    calculator = HipnnCalculator(potential, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_potential_energy(rattled())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(2 * CHECK_EVERY + 1):  # two of these builds are looked at
            calculator.get_potential_energy(rattled(0.8 - 1e-3 * step))
    texts = [str(one.message) for one in said if one.category is UnseenWarning]
    assert sum("Cu is more crowded" in text for text in texts) == 1
    assert any("closer than any in training" in text for text in texts)


def test_calculator_warns_of_every_limit_that_is_left():
    """Too close and never together, more and less crowded: each species is told once of each."""
    module = hipnn.build(HipnnConfig(8, 8, 1, species=("Cu", "Au"), cutoff=CUTOFF, soft_max=4.5))
    ranges = Validity.of([rattled()], CUTOFF)
    closest = {pair: 9.0 for pair in ranges.closest if pair != "Au-Cu"}
    potential = Potential(module, validity=Validity(closest, ranges.crowding, CUTOFF))
    calculator = HipnnCalculator(potential, device="cpu")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for scale in (1.3, *[1.0] * (CHECK_EVERY - 1), 0.8):
            calculator.get_potential_energy(rattled(scale))
    texts = [str(one.message) for one in said if one.category is UnseenWarning]
    for start in (
        "a pair Au-Au is",
        "a pair Cu-Cu is",
        "a pair Au-Cu is closer",
        *(
            f"{species} is {change} crowded"
            for species in ("Au", "Cu")
            for change in ("more", "less")
        ),
    ):
        assert sum(text.startswith(f"outside the training set: {start}") for text in texts) == 1

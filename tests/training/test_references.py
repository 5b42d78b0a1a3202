"""Reference energies of species: what a teacher's constants must not change, and what they must."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, hipnn, teachers
from kdlib.errors import InputError
from kdlib.hipnn import kernels
from kdlib.training import TrainingConfig, fit
from kdlib.training.losses import LossWeights
from kdlib.training.references import AtomReferences, least_squares

#: Rounding of float64: of energies in eV, of forces in eV/Angstrom.
DOUBLE = 1e-9

#: Per-species constants of another teacher, eV.
SHIFT = {"Cu": 31.7, "Au": -2.9}


def alloy(gold: int, seed: int) -> Atoms:
    """Four atoms of Cu-Au, strained and rattled."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", a=rng.uniform(3.7, 4.0), cubic=True)
    atoms.symbols[rng.permutation(4)[:gold]] = "Au"
    atoms.rattle(0.1, seed=seed)
    atoms.info["frame"] = seed
    return atoms


def shifted(frames: list[Atoms], shift: dict[str, float], partition: bool = True) -> list[Atoms]:
    """Frames with constants added to every species, with or without atomic energies."""
    result = []
    for atoms in frames:
        added = np.array([shift[symbol] for symbol in atoms.symbols])
        known = dict(atoms.calc.results)
        known["energy"] = known["energy"] + added.sum()
        known["energies"] = known["energies"] + added
        if not partition:
            del known["energies"]
        frame = atoms.copy()
        frame.calc = SinglePointCalculator(frame, **known)
        result.append(frame)
    return result


def labeled(stoichiometry: str) -> list[Atoms]:
    """Cu-Au by EMT, at any composition or at Cu2Au2 only."""
    teacher = teachers.load(EMT())
    gold = {"mixed": lambda k: k % 5, "fixed": lambda k: 2}[stoichiometry]
    return [teacher.label(alloy(gold(k), k)) for k in range(30)]


@pytest.mark.parametrize("stoichiometry", ["mixed", "fixed"])
@pytest.mark.parametrize("partition", [True, False])
def test_targets_do_not_know_the_teachers_constants(stoichiometry, partition):
    """E - sum E0 and E_i - E0 are the same for every constant per species; so are F and stress."""
    frames = labeled(stoichiometry)
    nothing = dict.fromkeys(SHIFT, 0.0)
    targets = []
    for shift in (nothing, SHIFT):
        teacher = shifted(frames, shift, partition)
        targets.append(AtomReferences.fit(teacher).subtract(teacher))
    for one, other in zip(*targets, strict=True):
        assert set(one.calc.results) == set(other.calc.results)
        for name, value in one.calc.results.items():
            np.testing.assert_allclose(other.calc.results[name], value, rtol=0, atol=1e-11)


def test_means_are_the_species_own_and_follow_the_constants():
    """With atomic energies E0 is their mean over a species, also at one fixed stoichiometry."""
    frames = labeled("fixed")
    before, after = (AtomReferences.fit(f).energies for f in (frames, shifted(frames, SHIFT)))
    copper = [a.calc.results["energies"][a.symbols == "Cu"] for a in frames]
    assert before["Cu"] == pytest.approx(np.mean(copper))
    assert {s: after[s] - before[s] for s in SHIFT} == pytest.approx(SHIFT)
    reduced = AtomReferences(before).subtract(frames)
    gold = [a.calc.results["energies"][a.symbols == "Au"] for a in reduced]
    assert np.mean(gold) == pytest.approx(0, abs=1e-12)


def test_least_squares_recover_known_references():
    """Energies made of nothing but references give those back; at one stoichiometry, of least norm.

    The norm is least where both species share the energy of Cu2Au2 evenly.
    """
    for stoichiometry, expected in (("mixed", SHIFT), ("fixed", dict.fromkeys(SHIFT, 14.4))):
        frames = labeled(stoichiometry)
        for atoms in frames:
            atoms.calc.results = {"energy": sum(SHIFT[s] for s in atoms.symbols)}
        assert AtomReferences.fit(frames).energies == pytest.approx(expected)


def student(frames: list[Atoms], references: AtomReferences, folder) -> hipnn.Potential:
    """A student of atomic energies, trained in float64 on interaction energies."""
    config = hipnn.HipnnConfig(
        5, 5, 1, dtype="float64", cutoff=5.0, soft_max=4.5, species=("Cu", "Au")
    )
    weights = LossWeights(energy=1, force=30, atomic_energy=100)
    reduced = references.subtract(frames)
    settings = TrainingConfig(max_epochs=4, batch_size=8, backend="hippynn")
    run = fit(config, settings, weights, reduced, datasets.split(reduced), folder)
    references.add_to(run.potential.module)
    return run.potential


@pytest.mark.parametrize("stoichiometry", ["mixed", "fixed"])
def test_students_differ_by_the_teachers_constants_only(stoichiometry, tmp_path):
    """The same forces; atomic energies apart by the constants, also at another composition."""
    frames = labeled(stoichiometry)
    students = []
    for name, shift in (("as it is", dict.fromkeys(SHIFT, 0.0)), ("shifted", SHIFT)):
        teacher = shifted(frames, shift)
        students.append(student(teacher, AtomReferences.fit(teacher), tmp_path / name))
    unseen = alloy(1, seed=99)
    one, other = (s.predict([unseen]) for s in students)
    added = np.array([SHIFT[symbol] for symbol in unseen.symbols])
    np.testing.assert_allclose(other.forces, one.forces, rtol=0, atol=DOUBLE)
    assert np.abs(one.forces).max() > 1e-3
    np.testing.assert_allclose(
        other.atomic_energies, one.atomic_energies + added, rtol=0, atol=DOUBLE
    )
    np.testing.assert_allclose(other.energy, one.energy + added.sum(), rtol=0, atol=DOUBLE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_references_survive_saving(dtype, tmp_path):
    """A student that was saved afterwards predicts absolute energies when it is loaded.

    References of all-electron energies are not rounded in single precision.
    """
    config = hipnn.HipnnConfig(5, 5, 1, dtype=dtype, species=("Au", "Cu"))
    module, frame = kernels.accelerate(hipnn.build(config)), alloy(1, 0)
    before = hipnn.Potential(module).predict([frame]).atomic_energies
    known = {"Cu": -45123.456789, "Au": -518000.1234567, "Al": 5.0}
    AtomReferences(known).add_to(module)
    hipnn.save(module, tmp_path)
    after = hipnn.load(tmp_path).predict([frame]).atomic_energies
    added = [known[symbol] for symbol in frame.symbols]
    np.testing.assert_allclose(after - before, added, rtol=0, atol=DOUBLE)


def test_what_has_no_reference_is_refused():
    """Messages name the frame, or the model, and the species."""
    references = AtomReferences({"Cu": 1.0})
    with pytest.raises(InputError, match="frame 3: no reference energy of Au, only of Cu"):
        references.subtract([teachers.load(EMT()).label(alloy(2, 3))])
    with pytest.raises(InputError, match="no reference energy of Al, species of the model"):
        references.add_to(hipnn.build(hipnn.HipnnConfig(5, 5, 1)))
    with pytest.raises(InputError, match="frame 3: has no energy"):
        AtomReferences.fit([alloy(2, 3)])
    with pytest.raises(InputError, match="there are no frames"):
        AtomReferences.fit([])


def test_energies_of_atoms_do_not_depend_on_what_memory_held_before():
    """Integers left behind by others, which torch's solver would take for its own settings."""
    frames, found = labeled("mixed")[:3], set()
    for k in range(200):
        left = [torch.full((n,), k % 2, dtype=torch.int32) for n in range(1, 33)]
        del left
        found.add(tuple(least_squares(frames, [29, 79])))
    assert len(found) == 1

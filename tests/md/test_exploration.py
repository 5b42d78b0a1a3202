"""Excursions: physical frames are returned, failures end them, disagreement is as defined."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from kdlib.md import exploration
from kdlib.md.exploration import Excursion

SHORT = Excursion(300.0, n_steps=40, sample_every=10, timestep=2.0)


def test_a_quiet_excursion_survives():
    """EMT copper at 300 K gives every sample and does not change its start."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    before = atoms.positions.copy()
    path = exploration.follow(atoms, EMT(), SHORT)
    assert (len(path.frames), path.survived, path.ending) == (4, 1.0, "")
    np.testing.assert_array_equal(atoms.positions, before)
    assert np.ptp([np.linalg.norm(f.positions - before) for f in path.frames]) > 0


def test_same_seed_same_path():
    """An excursion follows from its seed."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    first, again = (exploration.follow(atoms, EMT(), SHORT).frames[-1] for _ in range(2))
    np.testing.assert_array_equal(first.positions, again.positions)


def test_collision_ends_the_path_and_is_said():
    """Atoms that fall onto each other end the run; the frames before stay."""
    falling = LennardJones(sigma=0.3, epsilon=50.0, rc=6.0, smooth=False)
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.3, seed=1)
    path = exploration.follow(
        atoms, falling, Excursion(3000.0, n_steps=400, sample_every=5, timestep=5.0, closest=2.0)
    )
    assert path.survived < 1
    assert path.ending


def test_exploding_md_is_an_ending_not_an_error():
    """A calculator that heats without bound gives the frames before and the reason."""

    class Bomb(EMT):
        def get_forces(self, atoms=None, **options):
            return 1e4 * np.ones((len(atoms), 3)) * np.sign(atoms.positions - 3.0)

    path = exploration.follow(bulk("Cu", cubic=True).repeat(2), Bomb(), SHORT)
    assert path.survived < 1
    assert "temperature" in path.ending or "apart" in path.ending or "close" in path.ending


def test_accident_in_the_melt_leaves_what_came_before():
    """A run that fails in its melt returns the melt's frames, for students to learn from."""

    class Fuse(EMT):
        """EMT that blows up after 50 evaluations."""

        n_calls = 0

        def get_forces(self, atoms=None, **options):
            self.n_calls += 1
            burst = 1e4 * np.sign(atoms.positions - 3.0) if self.n_calls > 50 else 0.0
            return super().get_forces(atoms, **options) + burst

    atoms = bulk("Cu", cubic=True).repeat(2)
    path = exploration.follow(atoms, Fuse(), Excursion(300.0, 40, 10, hot=3000.0, melt_steps=40))
    assert (len(path.melting), len(path.frames), path.survived) == (2, 0, 0.0)
    assert path.ending


def test_melting_first_leaves_the_crystal():
    """A melt before the excursion moves atoms further than the excursion alone."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    molten = Excursion(300.0, 40, 10, hot=6000.0, melt_steps=100)
    far = [
        np.abs(exploration.follow(atoms, EMT(), e).frames[-1].positions - atoms.positions).mean()
        for e in (SHORT, molten)
    ]
    assert far[1] > 3 * far[0]


@pytest.mark.parametrize("n_models", [0, 1])
def test_disagreement_needs_an_ensemble(n_models):
    """One model alone is refused."""
    with pytest.raises(exploration.InputError, match="at least two models"):
        exploration.disagreement(np.zeros((n_models, 2, 3)), np.zeros(2, dtype=int))


def test_disagreement_and_largest_force_by_hand():
    """Two forces that differ by 2 x have a standard deviation of x; the worst atom counts."""
    forces = np.zeros((2, 3, 3))
    forces[0, :, 1] = [3.0, 4.0, 5.0]
    forces[1, :, 1] = [3.0, 3.0, 4.8]
    frame_index = np.array([0, 0, 1])
    np.testing.assert_allclose(exploration.disagreement(forces, frame_index), [0.5, 0.1])
    np.testing.assert_allclose(exploration.largest_force(forces[0], frame_index), [4.0, 5.0])


def test_a_run_shorter_than_its_samples_is_refused():
    """Without a sample there is nothing to explore, and no share of it that survived."""
    for n_steps, every in ((0, 10), (5, 10), (5, 0)):
        with pytest.raises(exploration.InputError, match=f"{n_steps} steps sampled every {every}"):
            Excursion(300.0, n_steps, every)

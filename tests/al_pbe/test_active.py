"""Active learning: what an ensemble disputes."""

import numpy as np
import pytest

from al_pbe import active
from al_pbe.active import Exploration
from kdlib import hipnn
from kdlib.errors import InputError
from kdlib.geometry.cells import closest_pair
from kdlib.md import exploration

SHORT = Exploration(n_steps=60, sample_every=10, melt_steps=10)


@pytest.fixture(scope="module")
def models():
    """Two students of aluminum, which disagree."""
    return [hipnn.load("al-16-8-1"), hipnn.load("al-32-16-2")]


def disagreement(models, frames):
    """Disagreement of models on frames, eV/Angstrom."""
    return exploration.disagreement(*hipnn.ensemble_forces(models, frames))


def test_a_model_does_not_disagree_with_itself(models, crystal):
    """Two copies give zero; one model is no ensemble."""
    np.testing.assert_allclose(disagreement([models[0]] * 2, [crystal]), 0, atol=1e-9)
    with pytest.raises(InputError, match="at least two models"):
        disagreement(models[:1], [crystal])


def test_disagreement_by_hand(models, crystal):
    """For two models it is half the difference of their forces at the worst atom."""
    frames = [crystal, crystal.repeat((2, 1, 1))]
    found = disagreement(models, frames)
    for value, atoms in zip(found, frames, strict=True):
        a, b = (m.predict([atoms]).forces.values for m in models)
        assert value == pytest.approx(np.linalg.norm(a - b, axis=1).max() / 2, rel=1e-5)


def test_starts_cover_what_they_should():
    """Density and temperature of 200 trajectories fill their ranges; a start follows from j."""
    starts = [active.start(1, j, Exploration()) for j in range(200)]
    density = [atoms.get_masses().sum() / atoms.get_volume() / 0.60221408 for atoms, _, _ in starts]
    assert 2.0 <= min(density) < 2.1
    assert 3.1 < max(density) <= 3.2
    temperatures = [temperature for _, temperature, _ in starts]
    assert 300 <= min(temperatures) < 500
    assert 2800 < max(temperatures) <= 3000
    again = active.start(1, 7, Exploration())[0]
    np.testing.assert_array_equal(again.positions, starts[7][0].positions)


def test_frames_of_two_rounds_never_share_a_number():
    """Numbers that would reach those of the next round are refused before anything runs."""
    with pytest.raises(InputError, match="1001 trajectories, but a round has numbers for 1000"):
        active.round_of([], 1, 1001, 1)


def test_round_chooses_the_most_disputed(models):
    """The chosen are the top of the list, physical, and say where they come from."""
    chosen, ds = active.round_of(models, 2, 5, 2, SHORT)
    ranked = ds.trajectory.values[np.argsort(-ds.disagreement.values)]
    best = sorted(ranked[:2].tolist())
    assert [a.info["frame"] for a in chosen] == [7000 + j for j in best]
    for atoms in chosen:
        assert closest_pair(atoms).distance >= 1.7
        assert atoms.info["sampling"] == "active learning"
        assert atoms.info["disagreement"] == pytest.approx(
            disagreement(models, [atoms])[0], rel=1e-3
        )
    assert (ds.disagreement >= ds.median_disagreement).all()

"""Effect of active learning on the errors of ensembles."""

import numpy as np
import pytest
import xarray as xr
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from al_pbe import ensemble, learning
from al_pbe.learning import COMPRESSED_TEST, TEST
from kdlib import datasets, hipnn, results
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.training import TrainingConfig


def labeled(k: int, amplitude: float, **info):
    """A rattled crystal of four atoms with EMT in the place of DFT."""
    atoms = bulk("Al", cubic=True)
    atoms.rattle(amplitude, seed=k)
    working = atoms.copy()
    working.calc = EMT()
    atoms.calc = SinglePointCalculator(
        atoms, energy=working.get_potential_energy(), forces=working.get_forces()
    )
    atoms.info.update(frame=k, **info)
    return atoms


@pytest.fixture(scope="module")
def frames():
    """Common and compressed frames, and two rounds of more strongly rattled ones."""
    common = [labeled(k, 0.05) for k in range(36)]
    common += [labeled(k, 0.05, part="compressed") for k in range(4000, 4004)]
    chosen = ((1, 3), (1, 7), (2, 3), (2, 5))
    found = [
        labeled(
            5000 + 1000 * n + k, 0.3, round=n, trajectory=k, disagreement=n / 10 + k / 100,
            part="train",
        )
        for n, k in chosen
    ]  # fmt: skip
    return common + found


@pytest.fixture(scope="module")
def trained():
    """Settings that every ensemble was trained with."""
    return []


@pytest.fixture(scope="module")
def gains(frames, trained, tmp_path_factory):
    """Errors of three ensembles of two tiny models as they come, untrained."""

    def train(seen, home, n_models, config, settings):
        trained.append((seen, settings.max_epochs))
        return [Potential(hipnn.build(config, seed=seed)) for seed in range(n_models)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "train", train)
        return learning.gains(
            frames,
            tmp_path_factory.mktemp("gains"),
            n_models=2,
            config=HipnnConfig(4, 4, 1),
            settings=TrainingConfig(max_epochs=40),
        )


def test_no_ensemble_is_asked_about_what_it_was_trained_on(gains, frames):
    """Errors are missing exactly for the rounds in the training part."""
    names = [TEST, COMPRESSED_TEST, "round 1", "round 2"]
    assert gains.evaluated.values.tolist() == names
    known = gains.error.notnull().all("member").values.tolist()
    assert known == [[True] * 4, [True] * 2 + [False, True], [True] * 2 + [False] * 2]
    assert gains.error.isnull().any("member").equals(gains.error.isnull().all("member"))
    split = datasets.split(frames)
    assert int(gains.n_frames.sel(evaluated=TEST)) == len(split.test)
    assert int(gains.n_frames.sel(evaluated=COMPRESSED_TEST)) == len(split.compressed) > 0


def test_ensembles_differ_in_frames_but_not_in_steps(gains, frames, trained):
    """Each round adds its frames; more frames get fewer epochs."""
    assert [len(seen) for seen, _ in trained[:3]] == [40, 42, 44]
    n = len(datasets.split(frames[:40]).train)
    assert gains.n_training.values.tolist() == [n, n + 2, n + 4]
    assert [epochs for _, epochs in trained[:3]] == [
        40,
        round(40 * n / (n + 2)),
        round(40 * n / (n + 4)),
    ]


def test_control_has_as_many_frames_as_without_active_learning(gains, frames, trained):
    """All rounds, four fewer sampled training frames, the same test part and epochs."""
    seen, epochs = trained[3]
    assert epochs == 40
    numbers = {atoms.info["frame"] for atoms in seen}
    assert {6003, 6007, 7003, 7005} <= numbers
    split = datasets.split(frames)
    assert {frames[k].info["frame"] for k in (*split.test, *split.valid)} <= numbers
    assert len(datasets.split(seen).train) == int(gains.n_training[0])
    known = gains.traded_error.notnull().all("member").values.tolist()
    assert known == [True] * 2 + [False] * 2


def test_nothing_is_traded_where_active_learning_has_the_most(frames):
    """Four frames found for three sampled ones cannot be traded."""
    train = [frames[k] for k in datasets.split(frames).train if frames[k].info["frame"] < 6000]
    others = [a for a in frames if a.info["frame"] >= 6000 or a not in train]
    assert learning.traded([*others, *train[:3]]) == []


def test_error_of_a_member_by_hand(gains, frames):
    """Member 1 without active learning on the frames of round 2, against plain numpy."""
    model = Potential(hipnn.build(HipnnConfig(4, 4, 1), seed=1))
    found = [atoms for atoms in frames if atoms.info.get("round") == 2]
    errors = [model.predict([a]).forces.values - a.get_forces() for a in found]
    expected = np.sqrt(np.mean(np.square(errors)))
    here = gains.error.sel(training=0, member=1, evaluated="round 2")
    assert float(here) == pytest.approx(expected, rel=1e-6)


def test_labeled_frames_tell_what_was_disputed(gains):
    """The frames' own info suffices, and a trajectory without a labeled frame is missing."""
    assert gains.trajectory.values.tolist() == [3, 5, 7]
    expected = [[0.13, np.nan, 0.17], [0.23, 0.25, np.nan]]
    np.testing.assert_allclose(gains.disagreement, expected)
    assert gains.n_labelled.values.tolist() == [2, 2]


def test_gains_are_a_result_file(gains, tmp_path):
    """Every variable has a unit and a long name, and reads back."""
    path = results.save(gains, tmp_path / "active.nc", kind="series")
    xr.testing.assert_allclose(results.load(path), gains)


def test_frames_of_active_learning_only_train(frames):
    """An actively learned frame in the test part would bias every error, so it is refused."""
    astray = labeled(6500, 0.1, round=1)
    with pytest.raises(InputError, match="frame 6500: active learning is for training only"):
        learning.numbers([*frames, astray])


def test_table_has_a_row_for_each_round(gains):
    """Missing trajectories do not count."""
    found = learning.table(gains)
    assert found.labeled.tolist() == [2, 2]
    np.testing.assert_allclose(found["median of disagreement"], [0.15, 0.24])

"""The title claim under other choices."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from kdlib import datasets, results
from kdlib.errors import InputError
from kdlib.results import schema
from kdlib.training import TrainingConfig, robustness, sweep

ROLES = ["student", "control", "matched_control"]


@pytest.fixture
def settings():
    return TrainingConfig(batch_size=8, max_epochs=2, backend="hippynn")


@pytest.fixture
def in_threads(monkeypatch):
    """Sweeps in this process; returns the list of the tasks that each of them trains."""
    trained, run = [], sweep.run

    def counted(todo, frames, split, folder, **options):
        with ThreadPoolExecutor(1) as pool:
            done = run(todo, frames, split, folder, pool, **(options | {"workers": None}))
        trained.append([str(found.run_dir) for found in done])
        return done

    monkeypatch.setattr(sweep, "run", counted)
    return trained


def test_another_teacher_leaves_the_controls_alone(
    tmp_path, emt_frames, small_config, settings, in_threads
):
    """Students are trained anew, controls are those of the run; the run's list stays as it was."""
    split = datasets.split(emt_frames)
    tables, seeds = [], [3, 4]
    for teacher in (small_config, replace(small_config, n_features=7)):
        given = (teacher, settings, ROLES, [small_config], seeds, emt_frames, split, tmp_path)
        tables.append(robustness.train(*given))
    (_, first), (_, second) = in_threads[:2], in_threads[2:]
    same = [a == b for a, b in zip(first, second, strict=True)]
    assert same == [False, False, True, True, True, True]
    with pytest.raises(InputError, match="no finished run 'control_"):
        sweep.load(tmp_path, "control", small_config.label, 3)
    together = robustness.joined({"as chosen": tables[0], "wider teacher": tables[1]})
    assert together.force_rmse.dims == ("variant", "role", "architecture", "seed", "split")
    force = together.force_rmse.sel(split="test", architecture=small_config.label)
    one, other = force.sel(variant="as chosen"), force.sel(variant="wider teacher")
    np.testing.assert_array_equal(one.sel(role="control"), other.sel(role="control"))
    assert (one.sel(role="student") != other.sel(role="student")).all()
    kept = results.load(results.save(together, tmp_path / "robustness.nc", "series"))
    assert kept.force_rmse.attrs["units"] == "eV/Angstrom"
    assert set(robustness.ERRORS) <= set(schema.KINDS["accuracy"])


def test_a_protocol_keeps_the_epochs_of_the_run(
    tmp_path, emt_frames, small_config, settings, in_threads
):
    """They are those of students and controls, not of teachers; the run has more architectures."""
    split, epochs = datasets.split(emt_frames), {sweep.size(small_config): 3, "128-40-4": 9}
    given = (small_config, settings, ROLES, [small_config], [3], emt_frames, split, tmp_path)
    found = robustness.train(*given, epochs=epochs).n_epochs
    lengths = found.sel(role=["teacher", *ROLES]).values.ravel()
    assert lengths.tolist() == [2, 3, 3, 3]


def test_variants_of_a_profile_are_read():
    """Each holds another teacher, other settings, or both."""
    found = robustness.read({
        "printed": {"training": {"cell_atoms": 0.0, "weight_decay": 0.1}},
        "wide": {"teacher_architecture": [64, 20, 2]},
    })  # fmt: skip
    assert found["printed"] == robustness.Variant((), {"cell_atoms": 0.0, "weight_decay": 0.1})
    assert found["wide"] == robustness.Variant((64, 20, 2))
    assert robustness.read({}) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": None}, "'mine' must hold one or both"),
        ({"teacher_architecture": []}, "'mine' must hold one or both"),
        ({"teacher_architecture": 64}, r"three whole numbers such as \[64, 20, 2\], got 64"),
        ({"teacher_architecture": "64-20-2"}, "three whole numbers .* got '64-20-2'"),
        ({"teacher_architecture": [64, 20]}, r"three whole numbers .* got \[64, 20\]"),
        ({"teacher_architecture": [64, 20, 2.0]}, "three whole numbers"),
        ({"training": [1]}, r"'mine': training must map settings to values, got \[1\]"),
        ({}, "'mine' must hold one or both of teacher_architecture, training, got {}"),
        ({"teacher": [8, 8, 1]}, "'mine' must hold one or both"),
        ([8, 8, 1], "'mine' must hold one or both"),
    ],
)
def test_a_variant_that_changes_nothing_known_is_refused(changes, message):
    """Before any training, by its name."""
    with pytest.raises(InputError, match=message):
        robustness.read({"mine": changes})


@pytest.mark.parametrize("name", [robustness.AS_CHOSEN, 1])
def test_a_variant_does_not_take_the_name_of_the_run(name):
    """Nor one that is no text."""
    with pytest.raises(InputError, match="a name is a text other than 'as chosen'"):
        robustness.read({name: {"training": {"cell_atoms": 0.0}}})


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"cell_atom": 0.0}, "'mine': training: no setting 'cell_atom'"),
        ({"max_epochs": 0}, "'mine': TrainingConfig: max_epochs is 0, must be > 0"),
        ({"optimizer": "adam"}, "'mine': TrainingConfig: weight_decay needs the optimizer 'soap'"),
    ],
)
def test_settings_are_checked_together_with_those_of_the_run(training, message):
    """The run decays its weights, which Adam does not."""
    run = {"optimizer": "soap", "weight_decay": 0.05, "batch_size": 4}
    with pytest.raises(InputError, match=message):
        robustness.settings(run, robustness.read({"mine": {"training": training}}))
    (good,) = robustness.settings(run, robustness.read({"mine": {"training": {"max_epochs": 3}}}))
    assert (good.max_epochs, good.batch_size, good.weight_decay) == (3, 4, 0.05)


def test_a_comparison_needs_trainings_of_the_run():
    """An architecture or a seed that it has not is named."""
    ds = synthetic.accuracy(synthetic.Plant())
    first = ds.architecture.values[:1].tolist()
    assert robustness.of_run(ds, ds, first, [0, 2]).seed.values.tolist() == [0, 2]
    with pytest.raises(InputError, match="architecture 9-9-9 is not among the run's students"):
        robustness.of_run(ds, ds, ["9-9-9"], [0])
    with pytest.raises(InputError, match="seed 77 is not among the run's students"):
        robustness.of_run(ds, ds, first, [0, 77])

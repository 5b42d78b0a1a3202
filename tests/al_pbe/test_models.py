"""The models that are put into the package."""

import json

import numpy as np
import pytest
import synthetic
import xarray as xr

from al_pbe import models
from kdlib import datasets, hipnn, results
from kdlib.errors import InputError
from kdlib.training import sweep

CONFIG = hipnn.HipnnConfig(4, 3, 1)
SPLIT = datasets.split(datasets.load("al-pbe"))


def made(role, label, seed):
    """Another untrained potential for each role, architecture and seed."""
    return hipnn.Potential(hipnn.build(CONFIG, 100 * len(role) + 10 * len(label) + seed))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Results of a profile; its potentials are untrained, another one for each seed."""
    plant = synthetic.Plant(seeds=3)
    ds = synthetic.accuracy(plant)
    # The smallest error on the validation part is not the smallest on the test part.
    for role, valid in (("teacher", [0.10, 0.08, 0.09]), ("student", [0.11, 0.12, 0.10])):
        ds.force_rmse.loc[{"role": role, "split": "valid"}] = valid
        ds.force_rmse.loc[{"role": role, "split": "test"}] = valid[::-1]
    ds.energy_rmse.loc[{"split": "test"}] = 8e-3
    by_phase = xr.DataArray([0.1, 0.3], {"phase": ["fcc", "liquid"]}, "phase")
    for name, factor in (("phase_force_rmse", 1.0), ("phase_energy_rmse", 0.1)):
        ds[name] = factor * by_phase.broadcast_like(ds.force_mae.isel(split=0, drop=True))
    for who, role in (("teacher", "teacher"), ("students", "student")):
        kept = slice(-1, None) if role == "teacher" else slice(None)
        part = ds.sel(role=[role]).isel(architecture=kept)
        about = {"dataset": "al-pbe", "profile": "mine", "split_sha256": SPLIT.sha256}
        results.save(part, tmp_path / f"accuracy_{who}.nc", "accuracy", **about)
    speed = synthetic.speed(plant)
    speed.step_time.loc[{"architecture": synthetic.TEACHER, "backend": "fused"}] = 3.0
    results.save(speed, tmp_path / "speed.nc", "speed", threads=2)
    monkeypatch.setattr(sweep, "load", lambda folder, *who: made(*who))
    return tmp_path


def test_the_best_on_the_validation_part_is_shipped(run, tmp_path, crystal):
    """Not the one that the test part prefers; its card says what was measured."""
    homes = models.export(run, ["16-8-1"], tmp_path / "out")
    assert [home.name for home in homes] == [f"al-{synthetic.TEACHER}", "al-16-8-1"]
    best = (("teacher", synthetic.TEACHER, 1), ("student", "16-8-1", 2))
    for home, who in zip(homes, best, strict=True):
        same = made(*who)
        kept = hipnn.load(home)
        np.testing.assert_allclose(
            kept.predict([crystal]).forces, same.predict([crystal]).forces, atol=1e-5
        )
        assert kept.validity.closest["Al-Al"] == pytest.approx(1.75, abs=0.1)
    card = json.loads((homes[0] / "card.json").read_text())
    assert card["errors"]["test"] == "0.080 eV/Angstrom, 8.0 meV/atom"
    assert card["errors"]["test, liquid"] == "0.300 eV/Angstrom, 30.0 meV/atom"
    assert card["speed"]["MD step"] == "3 us/atom at 4000 atoms"
    assert card["speed"]["processor"].endswith(", 2 threads")
    assert "best of 3 seeds" in card["training"]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"dataset": "mine.xyz"}, r"learned from mine\.xyz, not from al-pbe"),
        ({"split_sha256": "another"}, "its parts are not those of split seed 0"),
    ],
)
def test_models_of_other_data_are_refused(run, tmp_path, about, message):
    """Names and cards speak of al-pbe and its parts."""
    ds = results.load(run / "accuracy_teacher.nc")
    results.save(ds, run / "accuracy_teacher.nc", **about)
    with pytest.raises(InputError, match=message):
        models.export(run, ["16-8-1"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", [synthetic.TEACHER, "9-9-9"])
def test_a_student_has_a_name_of_its_own(run, tmp_path, label):
    """One as large as its teacher would take the teacher's; nothing is written then."""
    with pytest.raises(InputError, match=f"no student {label} smaller than its teacher .*16-8-1"):
        models.export(run, ["16-8-1", label], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_speed_is_refused(run, tmp_path):
    """The card tells the time of a step, and on how many threads."""
    speed = results.load(run / "speed.nc")
    del speed.attrs["threads"]
    results.save(speed, run / "speed.nc", "speed")
    with pytest.raises(InputError, match="how many threads; run notebook 05 again"):
        models.export(run, ["16-8-1"], tmp_path / "out")
    results.save(speed.drop_sel(architecture="16-8-1"), run / "speed.nc", "speed", threads=2)
    with pytest.raises(InputError, match="16-8-1 was not timed"):
        models.export(run, ["16-8-1"], tmp_path / "out")

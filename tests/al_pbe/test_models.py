"""The models that are put into the package."""

import json

import numpy as np
import pytest
import synthetic
import xarray as xr

from al_pbe import models
from kdlib import hipnn, results
from kdlib.errors import InputError
from kdlib.training import sweep

CONFIG = hipnn.HipnnConfig(4, 3, 1)


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
        about = {"dataset": "al-pbe", "profile": "mine"}
        results.save(part, tmp_path / f"accuracy_{who}.nc", "accuracy", **about)
    speed = synthetic.speed(plant)
    speed.step_time.loc[{"architecture": synthetic.TEACHER, "backend": "fused"}] = 3.0
    results.save(speed, tmp_path / "speed.nc", "speed", threads=2)
    made = lambda folder, role, label, seed: hipnn.Potential(hipnn.build(CONFIG, seed))  # noqa: E731
    monkeypatch.setattr(sweep, "load", made)
    return tmp_path


def test_the_best_on_the_validation_part_is_shipped(run, tmp_path, crystal):
    """Not the one that the test part prefers; its card says what was measured."""
    homes = models.export(run, ["16-8-1"], tmp_path / "out")
    assert [home.name for home in homes] == [f"al-{synthetic.TEACHER}", "al-16-8-1"]
    for home, seed in zip(homes, (1, 2), strict=True):
        same = hipnn.Potential(hipnn.build(CONFIG, seed))
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


def test_models_of_other_data_are_refused(run):
    """Names and cards speak of al-pbe."""
    ds = results.load(run / "accuracy_teacher.nc")
    results.save(ds, run / "accuracy_teacher.nc", dataset="mine.xyz")
    with pytest.raises(InputError, match=r"learned from mine\.xyz, not from al-pbe"):
        models.export(run, [])

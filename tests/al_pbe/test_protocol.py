"""The study of the training protocol."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from al_pbe import protocol
from kdlib import datasets, results
from kdlib.training import accuracy
from kdlib.training.runs import load_run


def test_study_reports_validation_errors_of_the_kept_weights(emt_frames, tmp_path):
    """Each entry is the error of the stored model on the validation part; none saw a test label."""
    split = datasets.split(emt_frames)
    frames = [*emt_frames]
    for k in split.test:
        frames[k] = emt_frames[k].copy()  # without labels
    small = {"max_epochs": 3, "batch_size": 8}
    varied = (small, small | {"optimizer": "adam", "weight_decay": 0.0})
    study = protocol.Study(sizes=((4, 5, 1),), seeds=(100, 101), varied=varied)
    with ThreadPoolExecutor(1) as pool:
        found = protocol.run(frames, split, tmp_path, study, pool)
    runs = [load_run(path.parent) for path in tmp_path.glob("runs/*/history.nc")]
    valid = [emt_frames[k] for k in split.valid]
    expected = sorted(
        accuracy.rmse(accuracy.residuals(run.potential, valid)["force"]) for run in runs
    )
    assert len(expected) == 4
    kept = found.force_rmse.sel(split="valid")
    assert sorted(kept.values.ravel()) == pytest.approx(expected, rel=1e-5)
    assert found.setting.values[1] == (
        "max_epochs 3, batch_size 8, optimizer adam, weight_decay 0.0"
    )
    assert f"{kept[1, 0].mean():.4f}" in protocol.table(found).splitlines()[2]
    saved = results.load(results.save(found, tmp_path / "protocol.nc"), "series")
    assert saved.force_rmse.equals(found.force_rmse)


def test_readme_shows_the_study(project: Path):
    """Its table is made from the file beside the code, which holds every setting of the study."""
    found = results.load(project / "al_pbe" / "protocol.nc")
    study = protocol.Study()
    assert found.setting.values.tolist() == [protocol._text(changes) for changes in study.varied]
    assert found.seed.values.tolist() == list(study.seeds)
    assert found.force_rmse.notnull().all()
    assert protocol.table(found) in (project / "README.md").read_text()

"""The archive of a run."""

import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from al_pbe import __main__ as command
from al_pbe import archive
from kdlib import datasets, hipnn, results
from kdlib.errors import InputError
from kdlib.training import TrainingConfig, sweep


@pytest.fixture(scope="module")
def run(emt_frames, tmp_path_factory):
    """Results of a teacher of two seeds, with an unfinished training beside them."""
    folder = tmp_path_factory.mktemp("results") / "mine"
    split = datasets.split(emt_frames)
    settings = TrainingConfig(max_epochs=1, batch_size=8)
    tasks = sweep.tasks(["teacher"], [hipnn.HipnnConfig(4, 5, 1)], settings, [0, 1])
    with ThreadPoolExecutor(1) as pool:
        runs = sweep.run(tasks, emt_frames, split, folder, pool)
    results.save(sweep.accuracy(tasks, runs, emt_frames, split), folder / "accuracy_teacher.nc")
    (folder / "runs" / "killed").mkdir()
    (folder / "runs" / "killed" / "checkpoint.safetensors").write_bytes(b"")
    (folder / "liquids").mkdir()
    shutil.copy(folder / "accuracy_teacher.nc", folder / "liquids" / "teacher.nc")
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "02_teacher.ipynb").write_text("{}")
    return folder


def unpacked(paths, out):
    """Folder that the archives give, as `tar -xf` would."""
    for path in paths:
        with tarfile.open(path) as opened:
            opened.extractall(out, filter="data")
    return out / "mine"


def test_the_archive_gives_the_models_and_results_back(run, crystal, tmp_path):
    """The same forces and errors from what was unpacked; notebooks and unfinished work stay out."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "control.tar.xz").write_bytes(b"of another time")
    paths = archive.pack(run, tmp_path / "kept")
    assert [path.name for path in paths] == ["results.tar.xz", "teacher.tar.xz"]
    assert sorted((tmp_path / "kept").iterdir()) == paths
    there = unpacked(paths, tmp_path)
    for seed in (0, 1):
        before, after = (sweep.load(home, "teacher", "4-5-1", seed) for home in (run, there))
        forces = [one.predict([crystal]).forces for one in (before, after)]
        np.testing.assert_array_equal(*forces)
    before, after = (results.load(home / "accuracy_teacher.nc") for home in (run, there))
    assert after.equals(before)
    names = {path.name for path in there.rglob("*")}
    assert "teacher.nc" in names
    assert not names & {"notebooks", "killed", "checkpoint.safetensors"}
    again = archive.pack(run, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_weights_can_be_left_out(run, tmp_path):
    """Their history stays."""
    out = tmp_path / "kept"
    line = ["archive", "--results", str(run), "--out", str(out), "--without-weights", "*_s1_*"]
    assert command.main(line) == 0
    there = unpacked(out.iterdir(), tmp_path)
    assert [path.parent.name[:-12] for path in there.rglob("model.safetensors")] == [
        "teacher_4-5-1_s0_"
    ]
    assert len(list(there.rglob("history.nc"))) == 2


def test_what_is_too_large_or_empty_is_refused(run, tmp_path, monkeypatch):
    """Nothing is written."""
    monkeypatch.setattr(archive, "LARGEST", 1000)
    with pytest.raises(InputError, match=r"would have 0\.\d MB, more than 0; leave out"):
        archive.pack(run, tmp_path / "kept")
    with pytest.raises(InputError, match="holds no results of a run"):
        archive.pack(tmp_path, tmp_path / "kept")
    assert not list(tmp_path.iterdir())

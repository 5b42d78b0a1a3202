"""Result files are written atomically, read back unchanged, and refused when damaged."""

import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from kdlib import results
from kdlib.errors import InputError
from kdlib.results import schema


def accuracy(role: str, architecture: str, n_parameters: int, seeds=(0, 1)) -> xr.Dataset:
    """Accuracy of one role at one size."""
    dims = ("role", "architecture", "seed", "split")
    shape = (1, 1, len(seeds), len(schema.SPLITS))
    rng = np.random.default_rng(n_parameters + len(role))
    names = ("energy_rmse", "energy_mae", "force_rmse", "force_mae")
    return xr.Dataset(
        {name: (dims, rng.uniform(0.1, 0.2, shape)) for name in names}
        | {"training_time": (dims[:3], rng.uniform(1, 2, shape[:3]))},
        {
            "role": [role],
            "architecture": [architecture],
            "seed": list(seeds),
            "split": list(schema.SPLITS),
            "n_parameters": ("architecture", [n_parameters]),
        },
    )


@pytest.fixture
def stored(tmp_path):
    """Path of a saved accuracy file."""
    ds = accuracy("student", "16-8-1", 2500)
    return results.save(ds, tmp_path / "accuracy.nc", "accuracy", profile="smoke")


def test_round_trip_keeps_values_names_and_attributes(tmp_path):
    """What is read is what was written, to the last bit."""
    ds = schema.describe(accuracy("student", "16-8-1", 2500), "accuracy")
    ds["force_rmse"][0, 0, 0, 0] = np.nan
    path = results.save(ds, tmp_path / "deep" / "accuracy.nc", config={"a": [1, 2]}, flag=True, n=3)
    back = results.load(path, "accuracy")
    xr.testing.assert_identical(back.drop_attrs(deep=False), ds.drop_attrs(deep=False))
    assert back.attrs["config"] == '{"a": [1, 2]}'
    assert back.attrs["flag"] == "true"
    assert back.attrs["n"] == 3


def test_provenance_is_stamped(stored):
    """Versions, machine and time are in the file."""
    attrs = results.load(stored).attrs
    assert attrs["profile"] == "smoke"
    assert attrs["numpy_version"] == np.__version__
    for name in ("created", "kdlib_version", "torch_version", "git_commit", "device", "cpu_model"):
        assert attrs[name], name


def test_results_do_not_import_torch():
    """Reading and writing results stays cheap: no torch, no matplotlib."""
    code = (
        "import sys; from kdlib.results import files; files.provenance();"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_truncated_file_is_refused(stored):
    """A file cut at any place is an InputError that names it."""
    whole = stored.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        stored.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"accuracy\.nc: .*(truncated or altered|checksum)"):
            results.load(stored)


def test_altered_byte_never_changes_a_number_unseen(stored):
    """A flipped byte anywhere is refused, unless it lies where nothing is stored."""
    whole, clean = stored.read_bytes(), results.load(stored)
    refused = 0
    for position in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        stored.write_bytes(bytes(damaged))
        try:
            found = results.load(stored)
        except InputError:
            refused += 1
        else:
            xr.testing.assert_identical(found, clean)
    assert refused > 5


def test_altered_byte_of_a_value_is_refused(stored):
    """One bit of a stored force error is flipped: the message names the file and the rule."""
    whole = stored.read_bytes()
    place = whole.index(results.load(stored).force_rmse.values.tobytes())
    stored.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(InputError, match=r"accuracy\.nc: content differs from its checksum"):
        results.load(stored)


def test_altered_value_is_refused(tmp_path, stored):
    """A number edited with other tools, the checksum left alone, is refused."""
    ds = xr.load_dataset(stored, engine="h5netcdf")
    ds["force_rmse"][0, 0, 0, 0] *= 0.5
    ds.to_netcdf(tmp_path / "edited.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"edited\.nc: content differs from its checksum"):
        results.load(tmp_path / "edited.nc")


def test_missing_file_and_wrong_kind_are_named(tmp_path, stored):
    """No file, or a file of another kind, is an InputError that says what is needed."""
    with pytest.raises(InputError, match=r"speed\.nc: no such result file"):
        results.load(tmp_path / "speed.nc")
    with pytest.raises(InputError, match="kind 'accuracy', but 'speed' is needed"):
        results.load(stored, "speed")


def test_failed_save_leaves_the_old_file_and_nothing_else(stored, monkeypatch):
    """Nothing half-written is ever seen under the file's name or left beside it."""
    before = stored.read_bytes()

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        results.save(accuracy("control", "16-8-1", 2500), stored, "accuracy")
    assert stored.read_bytes() == before
    assert [path.name for path in stored.parent.iterdir()] == ["accuracy.nc"]


def test_invalid_dataset_is_never_written(tmp_path):
    """Validation comes before the file."""
    ds = accuracy("student", "16-8-1", 2500).drop_vars("force_rmse")
    with pytest.raises(InputError, match=r"accuracy\.nc: variable 'force_rmse' is missing"):
        results.save(ds, tmp_path / "accuracy.nc", "accuracy")
    assert not list(tmp_path.iterdir())


def test_fingerprint_sees_data_and_not_provenance(tmp_path):
    """Two writings of the same data have one fingerprint; another value has another."""
    ds = accuracy("student", "16-8-1", 2500)
    first = results.save(ds, tmp_path / "a.nc", "accuracy", profile="smoke", wall_time=1.0)
    second = results.save(ds, tmp_path / "b.nc", "accuracy", profile="quick", wall_time=2.0)
    assert first.read_bytes() != second.read_bytes()
    assert results.fingerprint(first) == results.fingerprint(second)
    ds["force_rmse"][0, 0, 0, 0] = np.nextafter(ds.force_rmse.values[0, 0, 0, 0], 1)
    third = results.save(ds, tmp_path / "c.nc", "accuracy")
    assert results.fingerprint(third) != results.fingerprint(first)


def test_fingerprint_can_ignore_measured_times(tmp_path):
    """Two runs of the same work differ in training time only, and can be compared without it."""
    ds = accuracy("student", "16-8-1", 2500)
    first = results.save(ds, tmp_path / "a.nc", "accuracy")
    second = results.save(
        ds.assign(training_time=2 * ds.training_time), tmp_path / "b.nc", "accuracy"
    )
    assert results.fingerprint(first) != results.fingerprint(second)
    assert results.fingerprint(first, timings=False) == results.fingerprint(second, timings=False)


def test_combine_fills_the_grid_and_sorts_it():
    """Roles come in the schema's order, architectures by size, missing runs are NaN."""
    parts = [
        schema.describe(accuracy(*part), "accuracy")
        for part in (("control", "64-20-2", 95_000), ("teacher", "128-40-4", 700_000, (0,)),
                     ("student", "16-8-1", 2_500))
    ]  # fmt: skip
    whole = schema.validate(results.combine(parts), "accuracy")
    assert whole.role.values.tolist() == ["teacher", "student", "control"]
    assert whole.architecture.values.tolist() == ["16-8-1", "64-20-2", "128-40-4"]
    assert whole.n_parameters.dtype.kind == "i"
    assert int(whole.force_rmse.notnull().sum()) == sum(p.force_rmse.size for p in parts)
    teacher = whole.force_rmse.sel(role="teacher", architecture="128-40-4", seed=0)
    np.testing.assert_array_equal(teacher, parts[1].force_rmse.values.ravel())


def test_combined_files_can_be_stored(tmp_path):
    """Labels longer than those of the first file are written in full."""
    paths = [
        results.save(accuracy(role, "16-8-1", 2_500), tmp_path / f"{role}.nc", "accuracy")
        for role in ("teacher", "matched_control")
    ]
    whole = results.combine([results.load(path) for path in paths])
    back = results.load(results.save(whole, tmp_path / "whole.nc"))
    assert back.role.values.tolist() == ["teacher", "matched_control"]


def test_combine_refuses_contradictions():
    """Two parts that disagree on one value, or stem from two splits, cannot be one result."""
    one = schema.describe(accuracy("student", "16-8-1", 2_500), "accuracy")
    other = one.copy(deep=True)
    other["force_rmse"][0, 0, 0, 0] *= 1.01
    with pytest.raises(InputError, match="cannot combine"):
        results.combine([one, other])
    parts = [one.assign_attrs(split_sha256="a"), one.assign_attrs(split_sha256="b")]
    with pytest.raises(InputError, match="cannot combine .* differ in split_sha256"):
        results.combine(parts)


def test_collect_combines_the_files_of_a_kind(tmp_path):
    """All accuracy files of a folder become one Dataset; of an absent kind there is none."""
    results.save(
        accuracy("teacher", "128-40-4", 700_000), tmp_path / "accuracy_teacher.nc", "accuracy"
    )
    results.save(
        accuracy("student", "16-8-1", 2_500), tmp_path / "accuracy_students.nc", "accuracy"
    )
    assert results.collect(tmp_path, "accuracy").role.values.tolist() == ["teacher", "student"]
    assert results.collect(tmp_path, "speed") is None


def test_folder_is_found_from_a_subfolder_of_the_project(tmp_path, monkeypatch):
    """A notebook run by hand in notebooks/ finds the results of its project."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "kdlib"\n')
    monkeypatch.chdir(tmp_path / "notebooks")
    assert results.folder("quick") == (tmp_path / "results" / "quick").resolve()
    assert results.folder("quick", tmp_path / "other") == (tmp_path / "other").resolve()


def test_a_foreign_results_folder_does_not_capture_a_run(tmp_path, monkeypatch):
    """Results of somebody else's project above stay untouched: ours go to the working directory."""
    (tmp_path / "results").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert results.project_root() == tmp_path / "work"

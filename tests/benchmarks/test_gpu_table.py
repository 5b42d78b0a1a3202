"""The benchmark on a GPU as a result: every number in its place, and the text that shows it."""

from pathlib import Path

import numpy as np
import pytest
from synthetic import gpu_benchmark, gpu_record, gpu_trials

from kdlib import results
from kdlib.benchmarks.side_by_side import gpu, gpu_table
from kdlib.errors import InputError


def test_blocks_are_where_they_belong():
    """Times, memory in kB and trainings of the record stand at their architecture and size."""
    ds = gpu_benchmark().sel(architecture="128-40-4")
    times = ds.step_time.sel(n_atoms=500)
    assert float(times.sel(backend="fused", component="total")) == 7 / 500
    assert float(times.sel(backend="stock", component="neighbor_list")) == 5 * 7 / 500
    assert float(times.sel(backend="hippynn", component="model")) == 20 * 7 / 500
    assert times.sel(backend="hippynn", component="total").isnull()
    np.testing.assert_array_equal(ds.memory_per_atom.sel(n_atoms=500), [np.nan, 40, 2])
    np.testing.assert_array_equal(ds.training_step_time, [np.nan, 12 * 7, 1.5 * 7])
    assert float(ds.picosecond_time) == 3.5
    np.testing.assert_array_equal(ds.trial_n_atoms, [10_000_000, np.nan])
    assert ds.attrs["not_measured"].endswith("stock hippynn, 128-40-4: 4000 atoms")


def test_provenance_is_that_of_the_measurement(tmp_path):
    """The file names the device of the record, whatever machine writes it, and invents nothing."""
    ds = gpu_benchmark()
    path = results.save(ds, tmp_path / "gpu.nc", **ds.attrs)
    attrs = results.load(path, "benchmark").attrs
    assert attrs["device"] == "Some GPU"
    assert attrs["torch_version"] == "2.11.0"
    assert attrs["created"] == "2026-11-26T12:00:00+00:00"
    assert attrs["kdlib_version"] == "0.1.0"
    assert attrs["cpu_model"] == "not recorded"


def test_a_block_that_failed_is_missing_and_named():
    """An error leaves NaN at its size, and its words in the attributes."""
    record = gpu_record()
    record["stock 16-8-1 500"] = {"error": "OutOfMemoryError: no room"}
    ds = gpu_table.dataset(record)
    assert ds.step_time.sel(backend="stock", architecture="16-8-1").isnull().all()
    assert ds.attrs["failed"] == {"stock 16-8-1 500": "OutOfMemoryError: no room"}
    assert "stock hippynn, 16-8-1: 500, 4000 atoms" in ds.attrs["not_measured"]


def test_a_record_without_times_is_refused():
    """Where everything failed, the errors are the answer."""
    record = {name: gpu_record()[name] for name in ("device", "torch", "protocol")}
    record["md 16-8-1 500"] = {"error": "RuntimeError: no kernel image"}
    with pytest.raises(InputError, match="no kernel image"):
        gpu_table.dataset(record)


def test_a_run_cut_short_is_a_result(tmp_path):
    """The first block alone, with memory that no allocator counted, can be saved and shown."""
    record = {
        name: block
        for name, block in gpu_record().items()
        if name in ("device", "torch", "protocol", "md 16-8-1 500")
    }
    record["md 16-8-1 500"]["peak_bytes_per_atom"] = float("nan")
    ds = gpu_table.dataset(record)
    results.save(ds, tmp_path / "gpu.nc", **ds.attrs)
    assert "0.00200        -       -" in gpu_table.table(ds)


def test_text_shows_ratios_and_the_largest_run():
    """Stock is 50 times slower; the largest run is the last that took steps."""
    student, teacher = gpu_table.table(gpu_benchmark()).split("\n\n")[1:]
    assert student.splitlines()[1].split() == [
        "500", "0.00200", "0.100", "50.0", "0.0400", "20.0", "2.00", "40.0"
    ]  # fmt: skip
    assert "largest run: 75000000 atoms, 1.00 kB/atom" in student
    assert "largest run: 10000000 atoms" in teacher
    assert "training step, 64 cells: 1.50 ms, hippynn's layers 12.0 ms, 8.00 times" in student
    assert "forces 2.00 ms, environment 0.500 ms, others 1.00 ms; a build 1.25 ms" in student


def test_every_kind_of_block_has_its_place():
    """What the benchmark runs is what the result holds."""
    kinds = {name.split()[0] for name in (gpu_record() | gpu_trials()) if "seconds" not in name}
    kinds -= {"device", "torch", "protocol", "provenance"}
    assert kinds == set(gpu_table._FILL)
    assert all(hasattr(gpu, kind) for kind in kinds)


def test_readme_shows_the_stored_numbers(project: Path):
    """The table in README is made from the file beside the figure."""
    path = project / "figures" / "benchmark_gpu.nc"
    if not path.is_file():
        pytest.skip("figures are not beside the tests")
    assert gpu_table.table(results.load(path)) in (project / "README.md").read_text()

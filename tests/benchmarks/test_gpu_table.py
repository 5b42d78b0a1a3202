"""The benchmark on a GPU as a result: every number in its place, and the text that shows it."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch
from synthetic import gpu_benchmark, gpu_record, gpu_trials

from kdlib import hipnn, processes, results
from kdlib.benchmarks import memory
from kdlib.benchmarks.side_by_side import gpu, gpu_table
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential


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
    assert "largest run: 75000000 atoms in 75.0 GB, 1.00 kB/atom" in student
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


def test_result_says_which_cells_were_trained_on():
    """Number, size and file of the cells, in attributes and text; or that they were generated."""
    record = gpu_record()
    for name, origin in (("cells.h5", "of cells.h5"), ("", "generated")):
        record["cells"] = {"file": name, "number": 576, "mean_atoms": 115.052}
        ds = gpu_table.dataset(record)
        said = f"576 cells {origin}, 115 atoms each on average"
        assert ds.attrs["training_cells"] == said
        assert f"trained on {said}" in gpu_table.table(ds)


def test_cells_come_from_a_file_in_its_order(tmp_path):
    """The first cells of the file are trained on; too few are refused by name and number."""
    path = tmp_path / "cells.xyz"
    frames = gpu.training_cells(5, gpu.GpuProtocol(training_cell=(1, 1, 2), training_atoms=7))
    for atoms in frames:  # forces that a file may hold add up to zero
        atoms.calc.results["forces"] -= atoms.get_forces().mean(axis=0)
    ase.io.write(path, frames)
    found = gpu.training_cells(4, gpu.GpuProtocol(cells=str(path)))
    for atoms, written in zip(found, frames[:4], strict=True):
        np.testing.assert_allclose(atoms.positions, written.positions, atol=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), written.get_forces(), atol=1e-7)
    with pytest.raises(InputError, match="cells.xyz: holds 5 cells, but the benchmark trains on 6"):
        gpu.training_cells(6, gpu.GpuProtocol(cells=str(path)))


@pytest.fixture
def card(monkeypatch):
    """Let a card be there that takes 1 kB an atom; return its memory and a switch to break it."""
    found = SimpleNamespace(total_memory=50e9, broken=False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(memory, "free_memory", lambda: np.inf)

    def call(function, run_dir, cells, protocol, limit):
        assert function is gpu.attempt
        n = 4 * int(np.prod(cells))
        if found.broken and n > 4 * gpu.SIDE**3:
            raise RuntimeError("an illegal memory access")
        if 1e6 + 1000 * n > limit:
            raise torch.OutOfMemoryError("no room")
        return {"n_atoms": n, "peak_bytes": 1e6 + 1000 * n}

    monkeypatch.setattr(processes, "call", call)
    return found


def test_an_error_leaves_what_a_block_has_kept(tmp_path):
    """Tries that ran are in the file, with the reason of the end; without any, the error is all."""
    record = gpu._Record(tmp_path / "gpu.json")

    def fails(kept: dict) -> None:
        if kept:
            record.keep("largest a", kept)
        raise RuntimeError("lost")

    record.block("largest a", lambda: fails({"runs": [1]}))
    record.block("md a 500", lambda: fails({}))
    assert record.found["largest a"] == {"runs": [1], "ended": "RuntimeError: lost"}
    assert record.found["md a 500"] == {"error": "RuntimeError: lost"}


def test_largest_run_fills_the_share_of_the_card(card):
    """The last trial is the largest: within the tolerance of what the share of the memory holds."""
    potential = Potential(hipnn.build(HipnnConfig(4, 3, 1)))
    before, kept = {"n_atoms": 500_000, "peak_bytes": 501e6}, []
    protocol = gpu.GpuProtocol(memory_share=0.9, tolerance=0.02)
    found = gpu.largest(potential, before, protocol, lambda so_far: kept.append(deepcopy(so_far)))
    assert [len(so_far["runs"]) for so_far in kept] == [*range(1, len(found["runs"]) + 1)]
    assert kept[-1] == found
    for so_far in kept:  # also when it is cut off there
        assert so_far["runs"] == sorted(so_far["runs"], key=lambda run: run["n_atoms"])
    assert found["bytes_per_atom"] == pytest.approx(1000)
    assert 45e6 / 1.02 < found["runs"][-1]["n_atoms"] + 1000 <= 45e6
    assert found["room"] == pytest.approx(45e9)
    small = gpu.largest(potential, before, gpu.GpuProtocol(device_memory=20.0))
    assert small["room"] == pytest.approx(20e9)
    assert 20e6 / 1.05 < small["runs"][-1]["n_atoms"] + 1000 <= 20e6
    card.broken = True
    found = gpu.largest(potential, before, gpu.GpuProtocol())
    assert found["ended"] == "RuntimeError: an illegal memory access"
    assert [run["n_atoms"] for run in found["runs"]] == [4 * gpu.SIDE**3]

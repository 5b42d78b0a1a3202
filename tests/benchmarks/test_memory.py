"""Memory per atom: the meter, the slope, the extrapolation, and one measurement end to end."""

import concurrent.futures as cf

import numpy as np
import pytest
import torch
import xarray as xr

from kdlib import hipnn, processes
from kdlib.benchmarks import memory
from kdlib.benchmarks.memory import MemoryProtocol
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.md import liquid
from kdlib.results import schema

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def potential() -> Potential:
    """A small model."""
    return Potential(hipnn.build(HipnnConfig(4, 5, 1, cutoff=4.0, soft_max=3.5)))


def test_meter_sees_a_peak_and_forgets_it():
    """200 MB that are allocated and freed raise the peak by 200 MB until it is reset."""
    memory.reset_peak(CPU)
    before = memory.peak(CPU)
    np.ones(25_000_000).sum()
    risen = memory.peak(CPU) - before
    assert risen == pytest.approx(200e6, rel=0.015)
    memory.reset_peak(CPU)
    assert memory.peak(CPU) - before < 20e6


def measured(base: float, slopes: list[float]) -> xr.Dataset:
    """Peaks base + slope n, MB, as memory_per_atom returns them."""
    n = np.array([1000, 2000, 4000])
    peaks = [base + slope * n / 1e3 for slope in slopes]
    coords = {"architecture": ["a", "b"], "backend": ["fused"], "n_atoms": n}
    ds = xr.Dataset(coords=coords)
    ds["peak_memory"] = ("architecture", "backend", "n_atoms"), np.array(peaks)[:, None]
    ds["memory_per_atom"] = ("architecture", "backend"), np.array(slopes)[:, None]
    return ds


def test_max_atoms():
    """48 GB less 400 MB that a process needs in any case, at 10 and 450 kB/atom."""
    fits = memory.max_atoms(measured(400.0, [10.0, 450.0]), 48.0)
    np.testing.assert_allclose(fits.squeeze(), np.floor([47.6e9 / 10e3, 47.6e9 / 450e3]), atol=1)
    assert fits.attrs["device_memory"] == 48.0


def test_nothing_fits_without_a_slope():
    """Noise that makes memory fall with the atoms gives no number instead of a wrong one."""
    fits = memory.max_atoms(measured(400.0, [-1.0, 450.0]), 48.0)
    assert np.isnan(fits.sel(architecture="a")).all()
    assert fits.sel(architecture="b").notnull().all()


def test_slope_of_known_peaks(potential, monkeypatch):
    """Peaks of 300 MB + 12 kB per atom give 12 kB/atom, whatever order they come in."""
    monkeypatch.setattr(processes, "pool", lambda *_, **__: cf.ThreadPoolExecutor(2))
    monkeypatch.setattr(
        memory, "peak_bytes", lambda run_dir, b, start, ns, p: [3e8 + 12e3 * n for n in ns]
    )
    start = liquid.liquid_aluminum(1, seed=0)
    ds = memory.memory_per_atom([potential], {"fused": [800, 4000, 400]}, start)
    assert ds.memory_per_atom.item() == pytest.approx(12.0)
    np.testing.assert_allclose(ds.peak_memory.squeeze(), [304.8, 309.6, 348.0])
    assert ds.memory_per_atom.dims == ("architecture", "backend")


def test_a_process_takes_small_sizes_first(potential, monkeypatch):
    """After the warm-up, and with a reset before each; a peak that cannot be reset still rises."""
    seen = []
    monkeypatch.setattr(processes, "pool", lambda *_, **__: cf.ThreadPoolExecutor(1))
    monkeypatch.setattr(memory, "_run", lambda potential, b, start, n, *_: seen.append(n))
    monkeypatch.setattr(memory, "reset_peak", lambda device: seen.append("reset"))
    start = liquid.liquid_aluminum(1, seed=0)
    memory.memory_per_atom([potential], {"fused": [800, 4000, 400]}, start)
    assert seen == [len(start), "reset", 400, "reset", 800, "reset", 4000]


def test_dead_process_is_an_error_with_advice(potential, monkeypatch):
    """A process killed for its memory ends the measurement with what to do about it."""

    def die(*args):
        raise cf.BrokenExecutor

    monkeypatch.setattr(processes, "pool", lambda *_, **__: cf.ThreadPoolExecutor(1))
    monkeypatch.setattr(memory, "peak_bytes", die)
    start = liquid.liquid_aluminum(1, seed=0)
    with pytest.raises(MemoryError, match="up to 4000 atoms: choose smaller sizes"):
        memory.memory_per_atom([potential], {"fused": [400, 800, 4000]}, start)


def test_slope_needs_three_sizes(potential):
    """Two points always lie on a line."""
    start = liquid.liquid_aluminum(1, seed=0)
    with pytest.raises(InputError, match="'fused': a slope needs 3 sizes"):
        memory.memory_per_atom([potential], {"fused": [4, 8, 8]}, start)


@pytest.mark.slow
def test_memory_of_a_real_run(potential):
    """Fresh processes measure more than the bare arrays (72 bytes), and less than 1 MB per atom."""
    start = liquid.liquid_aluminum(2, seed=0)
    protocol = MemoryProtocol(n_steps=1, device="cpu")
    sizes = {"fused": [4096, 8192, 16384]}
    ds = memory.memory_per_atom([potential], sizes, start, protocol, workers=2)
    assert 0.072 < ds.memory_per_atom.item() < 1000.0
    assert ds.peak_memory.diff("n_atoms").min() > 0
    schema.validate(
        schema.describe(ds.drop_vars("peak_memory").assign(step_time=_no_times(ds)), "speed"),
        "speed",
    )


def _no_times(ds: xr.Dataset) -> xr.DataArray:
    """Step times that were not measured."""
    shape = (*(ds.sizes[dim] for dim in ("architecture", "backend", "n_atoms")), 1, 1)
    dims = ("architecture", "backend", "n_atoms", "component", "repeat")
    return xr.DataArray(np.full(shape, np.nan), {"component": ["total"], "repeat": [0]}, dims)

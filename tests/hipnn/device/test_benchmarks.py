"""Benchmarks on a device: the driver that stays there, and its memory."""

import numpy as np
import pytest
import torch

from kdlib import benchmarks, hipnn
from kdlib.benchmarks import MemoryProtocol, TimingProtocol, memory, ondevice
from kdlib.geometry import cells
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.hipnn.device import interpreted
from kdlib.md import liquid
from kdlib.results import schema


@pytest.fixture(scope="module")
def potential() -> Potential:
    """A small model of short range."""
    return Potential(hipnn.build(HipnnConfig(4, 3, 1, cutoff=3.6, soft_max=3.4)))


@pytest.fixture(scope="module")
def start():
    """Four atoms to repeat."""
    return liquid.liquid_aluminum(1, seed=0)


def test_only_kernels_in_wide_cells_stay_on_a_device(potential, start, device):
    """Other backends, models without kernels and narrow cells are left to ASE, with the reason."""
    wide = cells.tile(start, 32)
    reason = lambda p, b, atoms: ondevice.obstacle(p, b, atoms, device, 0.6)  # noqa: E731
    assert reason(potential, "fused", wide) is None
    assert "under ASE" in reason(potential, "hippynn", wide)
    assert "Angstrom wide" in reason(potential, "fused", start)
    other = Potential(hipnn.build(HipnnConfig(4, 3, 1, l_max=2, cutoff=3.6, soft_max=3.4)))
    assert reason(other, "fused", wide)


def test_steps_are_timed_as_a_whole_where_md_stays(potential, start, device):
    """Wide cells have a total and no parts, narrow ones and other backends both; and it is said."""
    sizes = {"hippynn": [16], "fused": [16, 32]}
    protocol = TimingProtocol(n_steps=1, warmup_steps=1, repeats=1, device=device.type)
    ds = benchmarks.time_per_step([potential], sizes, start, protocol)
    schema.validate(schema.describe(ds, "speed"), "speed")
    one = ds.isel(architecture=0)
    np.testing.assert_array_equal(one.time_on_device, [[0, np.nan], [0, 1]])
    times = one.step_time.sel(backend="fused", n_atoms=32)
    assert (times.sel(component="total") > 0).all()
    assert times.sel(component=["neighbor_list", "model", "integrator"]).isnull().all()


def test_memory_is_that_of_one_driver(potential, start, device, tmp_path, monkeypatch):
    """All sizes stay on the device, the warm-up included, or none does."""
    drivers = []

    def started(potential, atoms, *rest):
        drivers.append(len(atoms))
        return type("Run", (), {"run": lambda self, n: None})()

    monkeypatch.setattr(ondevice, "started", started)
    monkeypatch.setattr(memory.dynamics, "nve", lambda atoms, *_: drivers.append(-len(atoms)))
    hipnn.save(potential.module, tmp_path)
    protocol = MemoryProtocol(device=device.type)
    memory.peak_bytes(tmp_path, "fused", start, [32, 64], protocol)
    memory.peak_bytes(tmp_path, "fused", start, [16, 32], protocol)
    assert drivers == [32, 32, 64, -4, -16, -32]


@pytest.mark.cuda
def test_a_limited_process_runs_out_of_memory_alone(potential, start, tmp_path):
    """Two million atoms do not fit into 0.3 GB, 32 do, and this process keeps its device."""
    if not torch.cuda.is_available() or interpreted():
        pytest.skip("no CUDA device")
    from kdlib import processes

    hipnn.save(potential.module, tmp_path)
    protocol = MemoryProtocol(device="cuda")
    processes.call(memory.attempt, tmp_path, start, 32, protocol, 3e8)
    with pytest.raises(torch.OutOfMemoryError):
        processes.call(memory.attempt, tmp_path, start, 4 * 80**3, protocol, 3e8)
    assert float(torch.ones(3, device="cuda").sum()) == 3

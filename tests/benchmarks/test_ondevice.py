"""The largest number of atoms: what a search finds, and what it never tries."""

import concurrent.futures as cf
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdlib import hipnn, processes
from kdlib.benchmarks import memory, ondevice
from kdlib.benchmarks.memory import MemoryProtocol
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.md import liquid


class Device:
    """Holds ``room`` atoms and remembers what was tried."""

    def __init__(self, room: int) -> None:
        self.room, self.tried = room, []

    def __call__(self, n_atoms: int) -> None:
        """Run, or run out of memory."""
        self.tried.append(n_atoms)
        if n_atoms > self.room:
            raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize("seed", range(200))
def test_the_largest_number_is_bracketed(seed):
    """What is found ran, what is a tolerance larger did not fit, and nothing beyond the guard."""
    rng = np.random.default_rng(seed)
    unit = int(rng.choice([1, 4, 4000]))
    room = int(unit * 10 ** rng.uniform(-0.5, 5))
    guess, guard = room * 10 ** rng.uniform(-1, 1), room * 10 ** rng.uniform(-0.5, 1.5)
    tolerance = rng.uniform(0.01, 0.2)
    device = Device(room)
    found = ondevice.largest(device, guess, guard, tolerance, unit)
    assert all(n <= guard and n % unit == 0 and n > 0 for n in device.tried)
    assert len(set(device.tried)) == len(device.tried)
    assert len(device.tried) < 25
    assert found <= room
    assert found == 0 or found in device.tried
    beyond = max(found + unit, -(-found * (1 + tolerance) // unit) * unit)
    assert beyond > min(room, guard)


def test_a_good_estimate_costs_two_tries():
    """One that fits, and one that is a tolerance larger and does not."""
    device = Device(1000)
    assert ondevice.largest(device, 990.0, 1e9, 0.05) == 990
    assert device.tried == [990, 1039]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    """Only torch.OutOfMemoryError means that atoms do not fit."""

    def broken(n_atoms: int) -> None:
        raise RuntimeError("an illegal memory access")

    with pytest.raises(RuntimeError, match="illegal"):
        ondevice.largest(broken, 10, 100, 0.1)


@pytest.mark.parametrize("copies", [1, 7, 300, 19_997])
def test_units_tile_nearly_cubes(copies):
    """Numbers near an estimate are a tolerance apart, and no cell is a rod."""
    start = liquid.liquid_aluminum(1, seed=0)
    unit = ondevice.unit_near(copies * 4.0, 4, 0.05)
    assert unit <= max(4, 0.05 * copies * 4)
    n = max(1, round(copies * 4 / unit)) * unit
    if copies > 1000:
        lengths = liquid.enlarged(start, n, 1200.0).cell.lengths()
        assert lengths.max() < 2 * lengths.min()


@pytest.fixture
def potential() -> Potential:
    """A small model."""
    return Potential(hipnn.build(HipnnConfig(4, 5, 1, cutoff=4.0, soft_max=3.5)))


@pytest.fixture
def card(monkeypatch):
    """Let a device of 10 MB be there, whose allocator runs out at 1 kB an atom."""
    found = SimpleNamespace(total_memory=10_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(memory, "torch_device", lambda name: torch.device("cuda"))

    def call(function, run_dir, start, n_atoms, protocol, limit):
        assert function is memory.attempt
        assert hipnn.load(run_dir).config.label.startswith("4-5-1")
        if n_atoms * 1000 > limit:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(processes, "call", call)
    return found


def _slopes(potential: Potential, start, monkeypatch):
    peaks = lambda run_dir, b, start, ns, p: [1e6 + 1200.0 * n for n in ns]  # noqa: E731
    monkeypatch.setattr(memory, "peak_bytes", peaks)
    monkeypatch.setattr(memory, "_stays", lambda p, backend, *_: backend == "fused")
    monkeypatch.setattr(processes, "pool", lambda *_, **__: cf.ThreadPoolExecutor(1))
    sizes = {"stock": [400, 800, 1600], "fused": [400, 800, 1600]}
    return memory.memory_per_atom([potential], sizes, start)


def test_tries_replace_the_extrapolation_where_md_stays_on_a_device(card, potential, monkeypatch):
    """48 GB are more than the card has: its own share is filled; stock stays extrapolated."""
    start = liquid.liquid_aluminum(1, seed=0)
    ds = _slopes(potential, start, monkeypatch)
    fits = memory.max_atoms_tried(ds, 48.0, [potential], start, MemoryProtocol(memory_share=0.9))
    assert fits.attrs["device_memory"] == pytest.approx(9e-3)
    assert "by trying, to 5%" in fits.attrs["found"]
    assert 9000 / 1.05 < fits.sel(backend="fused").item() <= 9000
    assert fits.sel(backend="stock").item() == np.floor(8e6 / 1200)


def test_a_broken_try_loses_its_own_number_only(card, potential, monkeypatch):
    """Where a try breaks for another reason the number is missing, and the others are kept."""
    start = liquid.liquid_aluminum(1, seed=0)
    ds = _slopes(potential, start, monkeypatch)

    def die(*_):
        raise MemoryError("the process was killed")

    monkeypatch.setattr(processes, "call", die)
    fits = memory.max_atoms_tried(ds, 48.0, [potential], start)
    assert np.isnan(fits.sel(backend="fused").item())
    assert fits.sel(backend="stock").item() > 0


def test_an_out_of_memory_crosses_processes():
    """The error of a try arrives as what it is."""
    with pytest.raises(torch.OutOfMemoryError):
        processes.call(Device(1), 2)


def test_a_cpu_extrapolates(potential, monkeypatch):
    """Without a device nothing is tried, and the result says so."""
    start = liquid.liquid_aluminum(1, seed=0)
    ds = _slopes(potential, start, monkeypatch)
    fits = memory.max_atoms_tried(ds, 48.0, [potential], start, MemoryProtocol(device="cpu"))
    assert fits.attrs["found"] == "extrapolated along the measured slope of the memory"
    assert fits.notnull().all()

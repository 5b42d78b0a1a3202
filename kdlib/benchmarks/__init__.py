"""Cost of a potential: time per MD step, memory per atom, and other codes side by side."""

from kdlib.benchmarks.backends import BACKENDS
from kdlib.benchmarks.memory import MemoryProtocol, max_atoms, memory_per_atom
from kdlib.benchmarks.speed import TimingProtocol, side_by_side, time_per_step

__all__ = [
    "BACKENDS",
    "MemoryProtocol",
    "TimingProtocol",
    "max_atoms",
    "memory_per_atom",
    "side_by_side",
    "time_per_step",
]

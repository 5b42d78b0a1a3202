"""Cost of a potential: time per MD step, memory per atom, and other codes side by side."""

from kdlib.benchmarks.memory import MemoryProtocol, max_atoms, max_atoms_tried, memory_per_atom
from kdlib.benchmarks.speed import TimingProtocol, recorded, time_per_step

__all__ = [
    "MemoryProtocol",
    "TimingProtocol",
    "max_atoms",
    "max_atoms_tried",
    "memory_per_atom",
    "recorded",
    "time_per_step",
]

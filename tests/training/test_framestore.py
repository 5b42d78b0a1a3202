"""Batches cut from a store of frames."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib.hipnn import batches
from kdlib.training.framestore import FrameStore

CPU = torch.device("cpu")


@pytest.fixture
def frames():
    """Seven labeled frames of 4, 8 and 12 atoms."""
    found = []
    for k in range(7):
        atoms = bulk("Al", a=4.1, cubic=True) * (1, 1, 1 + k % 3)
        atoms.rattle(0.2, seed=k)
        rng = np.random.default_rng(k)
        labels = {"energy": float(rng.normal()), "forces": rng.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info["frame"] = k
        found.append(atoms)
    return found


def _single(frames):
    return [batches.from_atoms(atoms, 4.0, torch.float64) for atoms in frames]


def _same(a, b):
    for name, expected in vars(b).items():
        value = getattr(a, name)
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)
        else:
            assert value == expected


def test_a_batch_is_what_collating_gives(frames):
    """Frames in any order, with atoms, pairs, labels and rows as laid end to end."""
    single = _single(frames)
    chosen = np.array([3, 0, 5, 1])
    _same(FrameStore(single, CPU).batch(chosen), batches.collate([single[k] for k in chosen]))

"""Labeled frames of alloys and small networks, for all that differentiates a loss."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets
from kdlib.hipnn import HipnnConfig
from kdlib.training.losses import LossWeights

SMALL = HipnnConfig(
    6, 5, 1, dtype="float64", cutoff=5.0, soft_max=4.5, species=("Al", "Cu"), cusp_reg=1e-4
)
#: Odd and even counts, one species or more, with and without a change of width.
NETWORKS = {
    "one layer": SMALL,
    "three layers": dataclasses.replace(SMALL, n_features=9, n_atom_layers=3),
    "scalar": dataclasses.replace(SMALL, l_max=0, n_sensitivities=4, n_atom_layers=2),
    "width of the species": dataclasses.replace(SMALL, n_features=2, n_sensitivities=3),
}
EVERYTHING = LossWeights(
    energy=2.0,
    force=3.0,
    atomic_energy=5.0,
    l2=0.1,
    hierarchicality=0.7,
    total_energy=1.3,
    stress=40,
)
NOTHING = {field.name: 0.0 for field in dataclasses.fields(LossWeights)}


def labeled(atoms, k, weight=None):
    """Frame with every label; every third one without a stress."""
    rng = np.random.default_rng(k)
    labels = {
        "energy": float(rng.normal()) - 3 * len(atoms),
        "forces": rng.normal(size=(len(atoms), 3)),
        "energies": rng.normal(size=len(atoms)) - 3,
    }
    if k % 3:
        labels["stress"] = rng.normal(size=6) * 0.05
    atoms.calc = SinglePointCalculator(atoms, **labels)
    atoms.info["frame"] = k
    if weight is not None:
        atoms.info[datasets.WEIGHT] = weight
    return atoms


def alloy_frames():
    """Alloy cells of 4, 8 and 12 atoms, a dimer, and an atom that has no neighbor."""
    found = []
    for k in range(6):
        atoms = bulk("Al", a=4.0, cubic=True) * (1, 1, 1 + k % 3)
        atoms.rattle(0.2, seed=k)
        atoms.symbols[k % 2 :: 3] = "Cu"
        found.append(atoms)
    found[2:2] = [Atoms("AlCu", [[0, 0, 0], [1.0, 2.0, 0.3]]), Atoms("Cu", [[0, 0, 0]])]
    return [labeled(atoms, k) for k, atoms in enumerate(found)]


def assert_same(one, other):
    """Every value and gradient to 1e-9 of its size; of the largest gradient where it vanishes."""
    (values, slopes), (expected, gradients) = one, other
    assert list(values) == list(expected)
    for name, value in expected.items():
        assert float(values[name]) == pytest.approx(value.item(), rel=1e-9), name
    largest = max(float(g.abs().max()) for g in gradients.values() if g is not None)
    for name, slope in slopes.items():
        if gradients[name] is None:
            assert not slope.any(), name
            continue
        scale = max(float(gradients[name].abs().max()), 1e-6 * largest)
        torch.testing.assert_close(
            slope.cpu(),
            gradients[name],
            rtol=0,
            atol=1e-9 * scale,
            msg=lambda m, n=name: f"{n}: {m}",
        )

"""Configurations that MD starts from: a melt for aluminium, repeated frames for anything else."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from kdlib import datasets
from kdlib.md import liquid
from kdlib.md import structure
from kdlib.md.dynamics import MeltProtocol
from kdlib.progress import Reporter

#: Space between the copies of an isolated molecule, Angstrom.
APART = 4.0


def is_aluminium(frames: Sequence[Atoms]) -> bool:
    """Whether the data are of nothing but aluminium, whose liquid is known from experiment."""
    return datasets.species(frames) == ("Al",)


def configuration(
    frames: Sequence[Atoms],
    n_atoms: int,
    protocol: MeltProtocol,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Atoms:
    """Configuration to start MD from, with a sentence on its origin in ``info["origin"]``.

    Parameters
    ----------
    frames
        Data that the models learn from.
    n_atoms
        Wanted number of atoms; the result has the nearest that a crystal (aluminium: 4 n^3) or
        copies of a frame allow.
    protocol
        Of the melt; for aluminium only. Other materials keep the density of the frame.
    seed
        Of velocities.
    reporter
        Shows a bar over the steps of the melt.
    """
    if is_aluminium(frames):
        n_cells = max(1, round((n_atoms / 4) ** (1 / 3)))
        atoms = structure.starting_liquid(n_cells, protocol, seed, reporter=reporter)
        origin = f"liquid aluminium at {protocol.temperature:g} K and its experimental density"
    else:
        frame = _typical(frames)
        copies = max(1, round(n_atoms / len(frame)))
        atoms = liquid.tile(frame, copies * len(frame), protocol.temperature, seed)
        origin = (
            f"not aluminium: no melt and no experimental density; instead {copies} copies of frame "
            f"{datasets.identity(frame)}"
        )
    atoms.info["origin"] = f"{origin}, {len(atoms)} atoms"
    return atoms


def fitting(sizes: Mapping[str, Sequence[int]], unit: int) -> dict[str, list[int]]:
    """Numbers of atoms nearest to the wanted ones that copies of a cell of ``unit`` atoms have.

    Parameters
    ----------
    sizes
        Backend -> wanted numbers of atoms.
    unit
        Atoms of the cell that is repeated.

    Returns
    -------
    dict
        Backend -> multiples of ``unit``; different numbers stay different.
    """
    return {backend: _multiples(sorted(numbers), unit) for backend, numbers in sizes.items()}


def _multiples(numbers: Sequence[int], unit: int) -> list[int]:
    copies: list[int] = []
    for number in numbers:
        copies.append(max(1, round(number / unit), copies[-1] + 1 if copies else 1))
    return [unit * n for n in copies]


def _typical(frames: Sequence[Atoms]) -> Atoms:
    """Frame of median volume per atom among those with most species; a molecule gets a box."""
    periodic = [atoms for atoms in frames if atoms.pbc.all()]
    richest = max(len(set(atoms.numbers)) for atoms in periodic or frames)
    rich = [atoms for atoms in periodic or frames if len(set(atoms.numbers)) == richest]
    boxes = [atoms if atoms.pbc.all() else _boxed(atoms) for atoms in rich]
    boxes.sort(key=lambda atoms: atoms.get_volume() / len(atoms))
    return boxes[len(boxes) // 2]


def _boxed(molecule: Atoms) -> Atoms:
    """Put a molecule into a periodic box that keeps its images apart."""
    lengths = np.ptp(molecule.positions, axis=0) + APART
    info = {"frame": datasets.identity(molecule)}
    return Atoms(molecule.numbers, molecule.positions, cell=lengths, pbc=True, info=info)

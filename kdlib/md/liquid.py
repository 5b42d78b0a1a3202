"""Liquids to start a run from: a melt for aluminum, copies of a frame for anything else."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import BaseCalculator
from ase.calculators.emt import EMT
from ase.data import atomic_masses, atomic_numbers

from kdlib import datasets, units
from kdlib.geometry import cells
from kdlib.md import dynamics
from kdlib.md.dynamics import MeltProtocol, thermalize

#: Space between the copies of an isolated molecule, Angstrom.
APART = 4.0


def density(temperature: float = 1200.0) -> float:
    """Return the number density of liquid aluminum at ambient pressure, atoms/Angstrom^3; T in K.

    The correlation of Assael et al. 2006 (doi:10.1063/1.2149380),
    rho = 2377.23 - 0.311 (T - 933.47) kg/m^3: 2294 kg/m^3 or 0.0512 atoms/Angstrom^3 at 1200 K.
    """
    mass_density = 2377.23 - 0.311 * (temperature - 933.47)
    return units.number_density(mass_density, atomic_masses[atomic_numbers["Al"]])


def liquid_aluminum(
    n_cells: int | tuple[int, int, int],
    seed: int,
    temperature: float = 1200.0,
    displacement: float = 0.1,
) -> Atoms:
    """Rattled fcc crystal at the density of the liquid, with velocities, ready to be melted.

    Parameters
    ----------
    n_cells
        Cubic cells of four atoms along each axis.
    seed
        Seed for the displacements and velocities.
    temperature
        Temperature for the velocities and the density, K.
    displacement
        Standard deviation of the random displacements along each axis, Angstrom. They move the
        atoms off the symmetric sites, where HIP-NN's l = 1 invariants have a cusp.
    """
    lattice_constant = (4 / density(temperature)) ** (1 / 3)
    atoms = cells.repeated(bulk("Al", a=lattice_constant, cubic=True), n_cells)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=displacement, size=atoms.positions.shape)
    thermalize(atoms, temperature, rng)
    return atoms


def starting_liquid(
    n_cells: int,
    protocol: MeltProtocol | None = None,
    seed: int = 0,
    calculator: BaseCalculator | None = None,
) -> Atoms:
    """Melt and quench a crystal of aluminum, ``n_cells`` cubic cells along each axis.

    All models start from it, so the default forces are those of ASE's EMT, which favors none.
    """
    protocol = protocol or MeltProtocol()
    atoms = liquid_aluminum(n_cells, seed, protocol.temperature)
    atoms.calc = calculator or EMT()
    dynamics.melt(atoms, protocol, seed)
    atoms.calc = None
    return atoms


def enlarged(atoms: Atoms, n_atoms: int, temperature: float, seed: int = 0) -> Atoms:
    """Repeat an equilibrated liquid to ``n_atoms``, a multiple of its own, with new velocities (K).

    With velocities of their own the copies diverge within a few hundred fs.
    """
    tiled = cells.tile(atoms, n_atoms)
    thermalize(tiled, temperature, np.random.default_rng(seed))
    return tiled


def is_aluminum(frames: Sequence[Atoms]) -> bool:
    """Whether the data hold only aluminum, whose liquid is known from experiment."""
    return datasets.species(frames) == ("Al",)


def configuration(
    frames: Sequence[Atoms],
    n_atoms: int,
    protocol: MeltProtocol,
    seed: int = 0,
) -> Atoms:
    """Configuration to start MD from, with a sentence on its origin in ``info["origin"]``.

    Parameters
    ----------
    frames
        Data that the models learn from.
    n_atoms
        The result has the nearest number that a crystal (aluminum: 4 n^3) or copies of a frame
        allow.
    protocol
        Protocol of the melt, for aluminum only. Other materials keep the density of the frame.
    """
    if is_aluminum(frames):
        n_cells = max(1, round((n_atoms / 4) ** (1 / 3)))
        atoms = starting_liquid(n_cells, protocol, seed)
        origin = f"liquid aluminum at {protocol.temperature:g} K and its experimental density"
    else:
        frame = _typical(frames)
        copies = max(1, round(n_atoms / len(frame)))
        atoms = enlarged(frame, copies * len(frame), protocol.temperature, seed)
        origin = (
            f"not aluminum: no melt and no experimental density; instead {copies} copies of frame "
            f"{datasets.identity(frame)}"
        )
    atoms.info["origin"] = f"{origin}, {len(atoms)} atoms"
    return atoms


def fitting(sizes: Mapping[str, Sequence[int]], unit: int) -> dict[str, list[int]]:
    """Multiples of ``unit`` nearest to the sizes of each backend; different ones stay different."""
    return {backend: _multiples(sorted(numbers), unit) for backend, numbers in sizes.items()}


def _multiples(numbers: Sequence[int], unit: int) -> list[int]:
    copies: list[int] = []
    for number in numbers:
        copies.append(max(1, round(number / unit), copies[-1] + 1 if copies else 1))
    return [unit * n for n in copies]


def _typical(frames: Sequence[Atoms]) -> Atoms:
    """Frame of median volume per atom among those with the most species; a molecule gets a box."""
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

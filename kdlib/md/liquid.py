"""Liquid aluminium: its density, and configurations to start a run from."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_masses, atomic_numbers

from kdlib import units
from kdlib.errors import InputError


def density(temperature: float = 1200.0) -> float:
    """Return the number density of liquid aluminium at ambient pressure, atoms/Angstrom^3.

    The correlation of Assael et al. 2006 (doi:10.1063/1.2149380),
    rho = 2377.23 - 0.311 (T - 933.47) kg/m^3: 2294 kg/m^3 or 0.0512 atoms/Angstrom^3 at 1200 K.

    Parameters
    ----------
    temperature
        In K.
    """
    mass_density = 2377.23 - 0.311 * (temperature - 933.47)
    return units.number_density(mass_density, atomic_masses[atomic_numbers["Al"]])


def liquid_aluminium(
    n_cells: int | tuple[int, int, int],
    seed: int,
    temperature: float = 1200.0,
    displacement: float = 0.1,
) -> Atoms:
    """Rattled fcc crystal at the density of the liquid, with velocities: what a melt starts from.

    Parameters
    ----------
    n_cells
        Cubic cells of four atoms along each axis.
    seed
        Of the displacements and velocities.
    temperature
        Of the liquid whose density is taken, and of the velocities, K.
    displacement
        Standard deviation of the random displacements along each axis, Angstrom; takes the atoms
        off the symmetric sites, where HIP-NN's l = 1 invariants have a cusp.
    """
    lattice_constant = (4 / density(temperature)) ** (1 / 3)
    atoms = bulk("Al", a=lattice_constant, cubic=True).repeat(n_cells)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=displacement, size=atoms.positions.shape)
    thermalize(atoms, temperature, rng)
    return atoms


def tile(atoms: Atoms, n_atoms: int, temperature: float, seed: int) -> Atoms:
    """Repeat a small liquid, as nearly to a cube as possible, and draw new velocities.

    Parameters
    ----------
    atoms
        Equilibrated liquid; its copies move apart within a few hundred fs.
    n_atoms
        A multiple of the number of ``atoms``.
    temperature
        Of the velocities, K.
    seed
        Of the velocities.
    """
    copies, remainder = divmod(n_atoms, len(atoms))
    if remainder or copies < 1:
        raise InputError(f"{n_atoms} atoms are not a multiple of a liquid of {len(atoms)} atoms")
    lengths = atoms.cell.lengths()

    def elongation(repeats: tuple[int, int, int]) -> float:
        return max(lengths * repeats) / min(lengths * repeats)

    divisors = [k for k in range(1, copies + 1) if copies % k == 0]
    best = min(
        ((a, b, copies // (a * b)) for a in divisors for b in divisors if copies % (a * b) == 0),
        key=elongation,
    )
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    tiled = bare.repeat(best)
    thermalize(tiled, temperature, np.random.default_rng(seed))
    return tiled


def thermalize(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Draw Maxwell-Boltzmann velocities, scaled to exactly ``temperature`` (K), without drift."""
    mass = atoms.get_masses()[:, None]
    atoms.set_momenta(np.sqrt(mass * units.KB * temperature) * rng.normal(size=(len(atoms), 3)))
    stop_drift(atoms)
    if len(atoms) > 1:
        scale = np.sqrt(temperature / kinetic_temperature(atoms))
        atoms.set_momenta(atoms.get_momenta() * scale)


def stop_drift(atoms: Atoms) -> None:
    """Take the motion of the centre of mass out of the velocities."""
    momenta, mass = atoms.get_momenta(), atoms.get_masses()
    atoms.set_momenta(momenta - mass[:, None] * momenta.sum(axis=0) / mass.sum())


def kinetic_temperature(atoms: Atoms) -> float:
    """Temperature of the velocities, K; the centre of mass is no degree of freedom."""
    dof = max(3 * len(atoms) - 3, 1)
    return 2 * kinetic_energy(atoms) / (dof * units.KB)


def kinetic_energy(atoms: Atoms) -> float:
    """Kinetic energy, eV.

    Not by ASE's product of vectors: that goes to BLAS, whose threads then spin for some 30 ms on
    the cores that the next force call wants.
    """
    momenta, mass = atoms.get_momenta(), atoms.get_masses()
    return float(np.sum(momenta * momenta / mass[:, None]) / 2)

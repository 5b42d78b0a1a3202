"""Internal units and the conversions into them.

Energies are in eV, lengths in Angstrom, forces in eV/Angstrom, stresses in eV/Angstrom^3, times in
fs, temperatures in K. Numbers in other units are converted once, where they are read.
"""

from ase import units as _ase

#: eV per Hartree.
HARTREE = _ase.Hartree
#: eV/Angstrom per Hartree/Angstrom (the force unit of the ANI-Al files).
HARTREE_PER_ANGSTROM = _ase.Hartree
#: ASE time units per femtosecond (ASE's own integrators count in Angstrom sqrt(amu/eV)).
FS = _ase.fs
#: eV/Angstrom^3 per GPa.
GPA = _ase.GPa
#: eV per K, Boltzmann's constant.
KB = _ase.kB
#: g/cm^3 per (g/mol)/Angstrom^3.
GRAM_PER_CM3 = 1e24 / _ase.mol
#: fs per ps, the unit of time of LAMMPS (its units ``metal``).
PS = 1000.0
#: GPa per bar, the unit of pressure of LAMMPS.
GPA_PER_BAR = 1e-4


def number_density(mass_density: float, molar_mass: float) -> float:
    """Atoms per Angstrom^3 of a pure substance, from kg/m^3 and g/mol."""
    return mass_density * 1e3 / molar_mass * _ase.mol * 1e-30

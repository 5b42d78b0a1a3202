"""LAMMPS with the forces of any ASE calculator."""

from kdlib.md.lammps.driver import Driver, nvt, rdf

__all__ = ["Driver", "nvt", "rdf"]

"""LAMMPS with the forces of any ASE calculator, and with a pair style for HIP-NN of its own.

Modules: :mod:`~kdlib.md.lammps.driver` and :mod:`~kdlib.md.lammps.box` run LAMMPS from Python;
:mod:`~kdlib.md.lammps.pairstyle` compiles ``pair_style hipnn``, whose sources are in the folder
``pair_style``, for a :mod:`~kdlib.md.lammps.program`.
"""

from kdlib.md.lammps.driver import Driver, nvt, rdf

__all__ = ["Driver", "nvt", "rdf"]

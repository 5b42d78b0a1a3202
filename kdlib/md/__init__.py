"""Molecular dynamics with any ASE calculator: runs, liquids, crystals, exploration, LAMMPS."""

"""Geometry of configurations: neighbors, cells, and the radial distribution function."""

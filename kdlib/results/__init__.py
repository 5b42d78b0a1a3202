"""Result files: NetCDF with a schema and provenance, written whole or not at all."""

from kdlib.results.files import collect, combine, fingerprint, folder, load, project_root, save

__all__ = ["collect", "combine", "fingerprint", "folder", "load", "project_root", "save"]

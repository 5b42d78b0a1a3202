"""Result files: NetCDF with provenance, written whole or not at all, checked when read.

A file carries the SHA-256 of its own content, which `load` checks: a truncated or altered file is
an `InputError` and never a number in a figure.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from kdlib.errors import InputError
from kdlib.files import made, replacing
from kdlib.results import schema

#: Packages whose versions a result records.
PACKAGES = ("kdlib", "torch", "hippynn", "ase", "numpy")
#: Attributes on the origin of a file; `fingerprint` ignores them.
PROVENANCE = frozenset(
    {
        "created",
        *(f"{package}_version" for package in PACKAGES),
        "git_commit",
        "profile",
        "device",
        "cpu_model",
        "wall_time",
        "content_sha256",
    }
)

_ENGINE = "h5netcdf"
_ORDER = {
    "role": schema.ROLES,
    "split": schema.SPLITS,
    "backend": schema.BACKENDS,
    "component": schema.COMPONENTS,
}


def folder(profile: str, results_dir: str | os.PathLike[str] = "") -> Path:
    """Folder of a profile's results, created if missing.

    It is ``results_dir``, or else ``results/<profile>`` of the project.
    """
    path = Path(results_dir) if str(results_dir) else project_root() / "results" / profile
    return made(path).resolve()


def project_root() -> Path:
    """Checkout of kdlib that holds the working directory, or else the working directory."""
    here = Path.cwd()
    for parent in (here, *here.parents):
        project = parent / "pyproject.toml"
        if project.is_file() and 'name = "kdlib"' in project.read_text(encoding="utf-8"):
            return parent
    return here


def save(ds: xr.Dataset, path: str | os.PathLike[str], kind: str = "", **attrs: Any) -> Path:
    """Write a validated Dataset with its provenance; an existing file is replaced at once.

    Variables are named as in `kdlib.results.schema`; units and long names are attached here. The
    kind is by default the one in the Dataset's attributes. Further attributes are e.g. ``profile``,
    ``dataset_sha256``, ``split_sha256``, ``device``, ``wall_time`` (s); anything but text and
    numbers is stored as JSON.
    """
    path = Path(path)
    kind = kind or str(ds.attrs.get("kind", ""))
    ds = schema.validate(schema.describe(ds, kind), kind, source=str(path))
    ds = ds.drop_encoding()  # a text width of the file it was read from may be too narrow
    # The data of a figure were made earlier, perhaps elsewhere: they keep their provenance.
    stamped = {**provenance(), **ds.attrs} if kind == "figure" else {**ds.attrs, **provenance()}
    merged = {**stamped, **attrs, "kind": kind}
    ds.attrs = {key: _plain(value) for key, value in merged.items() if key != "content_sha256"}
    ds.attrs["content_sha256"] = _digest(ds, ds.attrs)

    made(path.parent)
    with replacing(path) as part:
        # In memory first: HDF5 crashes the process when the disk refuses what it writes.
        part.write_bytes(ds.to_netcdf(engine=_ENGINE, encoding=_encoding(ds)))
        load(part)
    return path


def load(path: str | os.PathLike[str], kind: str = "") -> xr.Dataset:
    """Read a result file into memory and check its content, its kind and its schema.

    Raises
    ------
    InputError
        The file is missing, truncated, altered, of another kind, or breaks the schema.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such result file; run the step that writes it first")
    try:
        with h5py.File(path, "r") as file:  # h5netcdf would report damage on stderr
            dict(file.attrs)
        ds = xr.load_dataset(path, engine=_ENGINE, decode_times=False, decode_timedelta=False)
    except Exception as error:  # a damaged HDF5 file can raise nearly anything
        raise InputError(f"{path}: not a readable NetCDF file (truncated or altered)") from error
    if ds.attrs.get("content_sha256") != _digest(ds, ds.attrs):
        raise InputError(f"{path}: content differs from its checksum (altered after writing)")
    ds.attrs = {key: _plain(value) for key, value in ds.attrs.items()}
    found = str(ds.attrs.get("kind", ""))
    if kind and found != kind:
        raise InputError(f"{path}: holds a result of kind {found!r}, but {kind!r} is needed")
    return schema.validate(ds, found, source=str(path))


def collect(where: str | os.PathLike[str], kind: str) -> xr.Dataset | None:
    """All result files of one kind in a folder, combined; None if there is none."""
    parts = [load(path, kind) for path in sorted(Path(where).glob(f"{kind}*.nc"))]
    return combine(parts) if parts else None


def combine(datasets: Iterable[xr.Dataset]) -> xr.Dataset:
    """Merge Datasets over their roles, architectures and seeds; gaps are NaN.

    Parts may be of different kinds (accuracy and speed, say); the whole is then of kind ``figure``.

    Raises
    ------
    InputError
        Two parts disagree on a value, or stem from different data or splits.
    """
    parts = list(datasets)
    names = ", ".join(str(part.encoding.get("source", "dataset")) for part in parts)
    for origin in ("dataset_sha256", "split_sha256"):
        if len({part.attrs[origin] for part in parts if origin in part.attrs}) > 1:
            raise InputError(f"cannot combine {names}: they differ in {origin}")
    kinds = {str(part.attrs.get("kind", "figure")) for part in parts}
    try:
        whole = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
    except (xr.MergeError, ValueError) as error:
        raise InputError(f"cannot combine {names}: {str(error).splitlines()[0]}") from error
    for name in ("created", "wall_time", "content_sha256"):
        whole.attrs.pop(name, None)
    for name, array in whole.coords.items():
        counts = str(name).startswith("n_") and array.dtype.kind == "f"
        if counts and np.isfinite(array.values).all():
            whole[name] = array.astype(int)
    whole = _sorted(whole)
    return schema.describe(whole, kinds.pop() if len(kinds) == 1 else "figure")


def fingerprint(path: str | os.PathLike[str], timings: bool = True) -> str:
    """SHA-256 over the data of a result file, regardless of its provenance.

    Without ``timings`` (measured times and memory), two runs of the same work have the same
    fingerprint.
    """
    ds = load(path)
    table = schema.KINDS.get(ds.attrs["kind"], {})
    if not timings:
        ds = ds.drop_vars([name for name in ds.variables if name in table and table[name].timing])
    return _digest(ds, {k: v for k, v in ds.attrs.items() if k not in PROVENANCE})


def provenance() -> dict[str, str]:
    """Time, versions, commit and processor. Does not import torch."""
    torch = sys.modules.get("torch")
    on_cuda = torch is not None and torch.cuda.is_available()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **{f"{package}_version": _version(package) for package in PACKAGES},
        "git_commit": _git_commit(),
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        "cpu_model": _cpu_model(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@lru_cache(maxsize=1)
def _git_commit() -> str:
    """Commit of the checkout that tracks this file; an installed copy has none."""
    here = Path(__file__)
    git = ("git", "-C", str(here.parent))
    try:
        subprocess.run(
            (*git, "ls-files", "--error-unmatch", here.name), capture_output=True, check=True
        )
        head = subprocess.run(
            (*git, "rev-parse", "HEAD"), capture_output=True, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip()


@lru_cache(maxsize=1)
def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _sorted(ds: xr.Dataset) -> xr.Dataset:
    """Sort coordinates as the schema does, and architectures by size."""
    for name, order in _ORDER.items():
        if name in ds.dims:
            present = set(ds[name].values.tolist())
            ds = ds.sel({name: [value for value in order if value in present]})
    if "n_parameters" in ds.coords:
        ds = ds.sortby(["n_parameters", "architecture"])
    return ds


def _encoding(ds: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Compress arrays of numbers, since grids of runs are mostly NaN."""
    packed = {"zlib": True, "complevel": 4, "shuffle": True}
    return {
        str(name): packed
        for name, array in ds.variables.items()
        if array.ndim and array.size > 64 and array.dtype.kind in "iuf"
    }


def _plain(value: Any) -> str | int | float:
    """Attribute as NetCDF can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return json.dumps(value, default=str)
    return value


def _digest(ds: xr.Dataset, attrs: dict[str, Any]) -> str:
    """SHA-256 over names, dimensions, attributes and values, independent of the file's layout."""
    digest = hashlib.sha256()

    def add(item: Any) -> None:
        digest.update(json.dumps(item, sort_keys=True, default=_plain).encode())

    add({key: _plain(value) for key, value in attrs.items() if key != "content_sha256"})
    for name in sorted(map(str, ds.variables)):
        array = ds[name]
        facts = {key: _plain(value) for key, value in array.attrs.items()}
        add([name, array.dims, array.shape, name in ds.coords, facts])
        if array.dtype.kind in "OUT":
            add([str(item) for item in np.ravel(array.values)])
        else:
            values = np.where(np.isnan(array.values), np.nan, array.values)
            digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()

r"""The radial distribution function g(r) of a liquid, its error, and the noise in that error.

For ``n_samples`` configurations of N atoms in a periodic cell of volume V, the number of ordered
pairs (i, j), images of the cell included, whose distance lies in the shell [r, r + dr) gives

.. math:: g(r) = \frac{V}{N^2} \frac{\langle n(r, r + dr) \rangle}{\frac{4\pi}{3}[(r + dr)^3 - r^3]}

so that an ideal gas of N atoms has g = (N - 1) / N everywhere. Pairs are true periodic pairs: an
atom is counted with every image of another inside ``r_max``, which may exceed half the cell.

The distance between two g(r) is the paper's "total absolute error" (section 3.2),

.. math:: \Delta = \int_{r_{min}}^{r_{max}} |g(r) - g_{ref}(r)| \, dr ,

in Angstrom. It is positive even for two runs of one model; :func:`noise_floor` estimates it.
"""

from collections.abc import Sequence
from importlib import resources
from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr

from kdlib._numba import compiled
from kdlib.errors import InputError

#: File inside the package with the measured g(r); its first line names the source.
EXPERIMENT = "liquid_al_rdf_experiment.csv"


def rdf(
    positions: np.ndarray, cell: np.ndarray, r_max: float = 8.0, n_bins: int = 160
) -> xr.DataArray:
    """Radial distribution function of sampled configurations.

    Parameters
    ----------
    positions
        Samples, (n_samples, n_atoms, 3), or one configuration, (n_atoms, 3), Angstrom. Atoms may
        lie outside the cell.
    cell
        Cell vectors as rows, (3, 3), Angstrom; the same for all samples, periodic in all three.
    r_max
        Upper edge of the last bin, Angstrom.
    n_bins
        Number of bins of equal width between 0 and ``r_max``.

    Returns
    -------
    xr.DataArray
        g, dimension ``r`` (centers of the bins, Angstrom), without unit; the attributes hold
        n_atoms, n_samples, density (atoms/Angstrom^3) and bin_width (Angstrom).
    """
    positions, cell = _checked(positions, cell)
    n_samples, n_atoms, _ = positions.shape
    volume = abs(np.linalg.det(cell))
    # |f| h <= |r| for the fractional coordinate f along a cell vector and the height h of the cell
    # over the face of the other two: it bounds the images that can be within reach.
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    counts = np.zeros(n_bins, dtype=np.int64)
    _count_pairs(positions @ np.linalg.inv(cell), cell, r_max / heights, r_max, counts)
    edges = np.linspace(0.0, r_max, n_bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    g = counts / n_samples * volume / n_atoms**2 / shells
    attrs = {
        "long_name": "radial distribution function",
        "units": "1",
        "n_atoms": n_atoms,
        "n_samples": n_samples,
        "density": n_atoms / volume,
        "bin_width": r_max / n_bins,
    }
    return xr.DataArray(g, coords={"r": centers(r_max, n_bins)}, name="g", attrs=attrs)


def centers(r_max: float, n_bins: int) -> xr.Variable:
    """Return the centers of ``n_bins`` equal bins between 0 and ``r_max``, Angstrom."""
    edges = np.linspace(0.0, r_max, n_bins + 1)
    return _r_axis((edges[1:] + edges[:-1]) / 2)


def _r_axis(r: np.ndarray) -> xr.Variable:
    return xr.Variable("r", r, {"units": "Angstrom", "long_name": "distance"})


def _checked(positions: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return samples as (n_samples, n_atoms, 3) and the cell as (3, 3), float64."""
    positions = np.asarray(positions, dtype=float)
    cell = np.asarray(cell, dtype=float)
    if positions.ndim == 2:
        positions = positions[None]
    if positions.ndim != 3 or positions.shape[-1] != 3 or positions.size == 0:
        raise InputError(
            f"g(r) needs positions of shape (n_samples, n_atoms, 3), got {positions.shape}"
        )
    bad = ~np.isfinite(positions).all(axis=(1, 2))
    if bad.any():
        raise InputError(f"g(r): positions of sample {np.flatnonzero(bad)[0]} are not finite")
    if cell.shape != (3, 3) or not abs(np.linalg.det(cell)) > 0:
        raise InputError("g(r) needs a periodic cell of three independent vectors")
    return positions, cell


@compiled()
def _images(separation: float, reach: float) -> tuple[int, int]:
    """Bounds of the integers k for which |separation + k| <= reach."""
    return int(np.ceil(-reach - separation)), int(np.floor(reach - separation)) + 1


@compiled()
def _count_pairs(
    fractional: np.ndarray, cell: np.ndarray, reach: np.ndarray, r_max: float, counts: np.ndarray
) -> None:
    """Add the ordered pairs of all samples, images included, to the histogram ``counts``.

    ``reach[a]`` is ``r_max`` over the height of the cell along vector a: images with a fractional
    separation beyond it cannot be closer than ``r_max``.
    """
    n_samples, n_atoms, _ = fractional.shape
    n_bins = len(counts)
    per_length = n_bins / r_max
    for s in range(n_samples):
        for i in range(n_atoms):
            for j in range(i, n_atoms):
                ordered = 1 if i == j else 2
                f0 = fractional[s, j, 0] - fractional[s, i, 0]
                f1 = fractional[s, j, 1] - fractional[s, i, 1]
                f2 = fractional[s, j, 2] - fractional[s, i, 2]
                for a in range(*_images(f0, reach[0])):
                    for b in range(*_images(f1, reach[1])):
                        for c in range(*_images(f2, reach[2])):
                            if i == j and a == 0 and b == 0 and c == 0:
                                continue
                            u, v, w = f0 + a, f1 + b, f2 + c
                            x = u * cell[0, 0] + v * cell[1, 0] + w * cell[2, 0]
                            y = u * cell[0, 1] + v * cell[1, 1] + w * cell[2, 1]
                            z = u * cell[0, 2] + v * cell[1, 2] + w * cell[2, 2]
                            k = int(np.sqrt(x * x + y * y + z * z) * per_length)
                            if k < n_bins:
                                counts[k] += ordered


def pieces(
    positions: np.ndarray, cell: np.ndarray, n_pieces: int, r_max: float = 8.0, n_bins: int = 160
) -> list[xr.DataArray]:
    """Return g(r) of ``n_pieces`` equally long, consecutive pieces of one run.

    Parameters
    ----------
    positions
        Samples in the order of time, (n_samples, n_atoms, 3), Angstrom. A remainder that does not
        fill a piece is omitted at the beginning, where the run is least equilibrated.
    cell, r_max, n_bins
        As in :func:`rdf`.
    n_pieces
        At least 2.
    """
    length = len(positions) // n_pieces
    if n_pieces < 2 or length < 1:
        raise InputError(
            f"a noise floor needs two pieces of at least one sample, got {n_pieces} pieces of "
            f"{len(positions)} samples"
        )
    used = positions[len(positions) - n_pieces * length :]
    return [rdf(used[k * length : (k + 1) * length], cell, r_max, n_bins) for k in range(n_pieces)]


def coordination(g: xr.DataArray, r_cut: float) -> float:
    """Mean number of neighbors closer than ``r_cut`` (Angstrom), from g(r) and its density."""
    width = g.attrs["bin_width"]
    inner, outer = g.r - width / 2, g.r + width / 2
    shells = 4.0 / 3.0 * np.pi * (np.minimum(outer, r_cut) ** 3 - inner**3).clip(min=0.0)
    return float(g.attrs["density"] * (g * shells).sum())


def rdf_error(
    g: xr.DataArray, reference: xr.DataArray, r_min: float = 2.0, r_max: float = 8.0
) -> float:
    """Integral of |g - reference| between ``r_min`` and ``r_max``, Angstrom.

    Parameters
    ----------
    g
        Radial distribution function on equal bins, dimension ``r``.
    reference
        Another g(r); on a different grid (the experiment's), it is interpolated linearly to the
        bins of ``g``.
    r_min, r_max
        Bounds for the centers of the bins, Angstrom.
    """
    if not (_covers(g, r_min, r_max) and _covers(reference, r_min, r_max)):
        raise InputError(f"both g(r) must cover {r_min:g} to {r_max:g} Angstrom to be compared")
    # Above r_max lie images of the small cell; below r_min no atoms, but the experiment's ripples.
    inside = g.sel(r=slice(r_min, r_max))
    width = float(np.diff(g.r).mean())
    if not inside.r.isin(reference.r).all():
        reference = reference.interp(r=inside.r)
    difference = np.abs(inside.values - reference.sel(r=inside.r).values)
    if not np.isfinite(difference).all():
        raise InputError("g(r) to be compared holds values that are not finite")
    return float(difference.sum() * width)


def _covers(g: xr.DataArray, r_min: float, r_max: float) -> bool:
    """Whether the grid of g reaches both bounds, to within one step."""
    step = float(np.diff(g.r).mean())
    return float(g.r[0]) <= r_min + step and float(g.r[-1]) >= r_max - step


def noise_floor(
    parts: Sequence[xr.DataArray],
    parts_per_run: float = 1.0,
    r_min: float = 2.0,
    r_max: float = 8.0,
) -> float:
    """Error between two runs of one model from finite sampling alone, Angstrom.

    Parameters
    ----------
    parts
        g(r) of equally long, independent pieces of equilibrium (or of independent models: then the
        result is the scatter between models).
    parts_per_run
        Length of the runs to be compared in units of a piece. Independent samples add up, so the
        mean |difference| of two runs is that of two pieces over sqrt(parts_per_run).
    r_min, r_max
        Bounds of the error, Angstrom.
    """
    if len(parts) < 2:
        raise InputError("a noise floor needs at least two pieces")
    # Pairs share pieces: their errors are correlated, which leaves the mean as it is.
    errors = [rdf_error(a, b, r_min, r_max) for a, b in combinations(parts, 2)]
    return float(np.mean(errors) / np.sqrt(parts_per_run))


def experiment(temperature: int = 1198) -> xr.DataArray:
    """Measured g(r) of liquid aluminum.

    Parameters
    ----------
    temperature
        In K; 1198 (main peak 2.52 at 2.77 Angstrom) or 1023. Below 2.4 Angstrom the data show
        Fourier ripple.

    Returns
    -------
    xr.DataArray
        g, dimension ``r`` (0 to 10 Angstrom in steps of 0.05); ``source`` in its attributes.
    """
    text = (
        resources.files("kdlib")
        .joinpath("datasets", "data", EXPERIMENT)
        .read_text(encoding="utf-8")
    )
    header = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    table = pd.read_csv(
        resources.files("kdlib").joinpath("datasets", "data", EXPERIMENT), comment="#"
    )
    column = f"g_{temperature:g}K"
    if column not in table:
        known = ", ".join(name[2:-1] for name in table.columns if name.startswith("g_"))
        raise InputError(f"{EXPERIMENT}: no g(r) at {temperature:g} K; there are {known} K")
    attrs = {
        "long_name": "radial distribution function, experiment",
        "units": "1",
        "temperature": float(temperature),
        "source": " ".join(header),
    }
    r = _r_axis(table["r_angstrom"].to_numpy())
    return xr.DataArray(table[column].to_numpy(), coords={"r": r}, name="g_experiment", attrs=attrs)

"""Side by side: stock hippynn, both backends of our calculator, LAMMPS, on the same liquid.

Measurements run one after the other, each in its own process: NVE of liquid aluminum by velocity
Verlet with all cores, in blocks of steps, with neighbor lists rebuilt when needed; peak memory per
atom as in :mod:`kdlib.benchmarks.memory`; training time per epoch on one thread, as in a sweep; the
total energy along 10 ps of NVE on the fused kernels. Run nothing else on the machine meanwhile.

Contestants:

- ``"stock"``: hippynn's own calculator with its default skin;
- ``"stock_best"``: the same with the fastest of several skins;
- ``"hippynn"`` and ``"fused"``: our calculator's backends;
- ``"lammps"`` and ``"lammps_ranks"``: LAMMPS with an embedded-atom potential
  (:mod:`kdlib.benchmarks.side_by_side.lammps`), with a thread or a rank of MPI per core;
- ``"pair_style_1"`` and ``"pair_style"``: LAMMPS with ``pair_style hipnn``
  (:mod:`kdlib.md.lammps.pairstyle`) on one rank, and with a rank per core.

A contestant too slow or too large for a size is not run there. Time per atom hardly depends on the
size, so its times at the largest size that it ran are used, and ``status`` is ``extrapolated``.

All start from a liquid melted under ASE's EMT potential. The networks are the models that come with
the package, because random weights do not keep a liquid together.
"""

import os
from pathlib import Path

import xarray as xr

from kdlib import processes, progress, results
from kdlib.benchmarks.memory import free_memory
from kdlib.benchmarks.side_by_side import md, training
from kdlib.benchmarks.side_by_side.kept import Kept
from kdlib.benchmarks.side_by_side.lammps import find
from kdlib.benchmarks.side_by_side.plan import (
    FULL,
    QUICK,
    BenchProtocol,
    empty,
)
from kdlib.benchmarks.side_by_side.table import summary, table, with_ratios
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, catalog
from kdlib.md.dynamics import MeltProtocol
from kdlib.md.lammps.program import VARIABLE
from kdlib.md.liquid import starting_liquid

__all__ = ["FULL", "QUICK", "BenchProtocol", "run", "summary", "table", "with_ratios"]

#: Architecture -> configuration and role, as in the paper: a teacher and two students.
MODELS = {
    config.label: (config, role)
    for config, role in (
        (HipnnConfig(128, 40, 4), "teacher"),
        (HipnnConfig(16, 8, 1), "student"),
        (HipnnConfig(32, 16, 2), "student"),
    )
}
#: Architectures whose MD is timed; the third is only trained.
IN_MD = ("128-40-4", "16-8-1")


def run(out: str | Path, protocol: BenchProtocol = FULL, lammps: str | Path = "") -> xr.Dataset:
    """Measure everything and write it to a NetCDF file; an interrupted run goes on.

    Parameters
    ----------
    lammps
        Executable; by default that of :func:`~kdlib.benchmarks.side_by_side.lammps.find`. Without
        LAMMPS its rows stay empty.
    """
    try:
        program = find(lammps)
    except InputError as error:
        if str(lammps) or os.environ.get(VARIABLE):
            raise
        progress.line(f"left out: {error}")
        program = None
    stages = dict.fromkeys(
        ("melt_steps", "quench_steps", "equilibration_steps"), protocol.melt_steps
    )
    start = starting_liquid(
        protocol.n_cells, MeltProtocol(temperature=protocol.temperature, **stages)
    )
    run_dirs = {label: catalog.located(f"al-{label}") for label in IN_MD}
    kept = Kept(Path(out), repr((protocol, processes.cores(), str(program))))
    ds = kept.read(empty([config for config, _ in MODELS.values()], protocol))
    md.side_by_side(ds, run_dirs, start, protocol, program, kept.write)
    if "energy_drift" not in ds:
        ds = ds.merge(md.along_nve(run_dirs, start, protocol), join="outer")
        kept.write(ds)
    training.side_by_side(ds, MODELS, protocol, kept.write)
    ds = with_ratios(ds).assign_attrs(
        n_threads=protocol.n_threads,
        cores=processes.cores(),
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "default"),
        memory_available=free_memory(),
        potentials=", ".join(path.name for path in run_dirs.values()),
        protocol=repr(protocol),
    )
    ds.attrs.pop("measured_for", None)
    path = results.save(ds, out, kind="benchmark")
    kept.remove()
    return results.load(path, "benchmark")

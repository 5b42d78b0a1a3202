"""A linear ACE on the same frames and the same split, fitted and timed with the package ace-jax.

The atomic cluster expansion (Drautz, Phys. Rev. B 99, 014104 (2019)) is linear in its coefficients,
so that a fit is one least squares. :mod:`~kdlib.benchmarks.linear_ace.environment` installs ace-jax
into an environment of its own, where :mod:`~kdlib.benchmarks.linear_ace.worker` fits the training
part, predicts the others, and runs MD under ASE. The energy of an isolated atom is fitted with the
coefficients.

Finished fits are in the cache under a hash of what they depend on; predictions and times are in a
JSON file beside the result, so that a second run resumes. Run nothing else on the machine
meanwhile; ``processor_share`` tells whether something did.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib import datasets, processes, progress, results
from kdlib.benchmarks.linear_ace import classical, environment, exchange
from kdlib.benchmarks.linear_ace.plan import (
    ENGINES,
    FULL,
    QUICK,
    AceProtocol,
    AceSize,
)
from kdlib.benchmarks.linear_ace.table import dataset, errors, selection, table
from kdlib.datasets import Split, registry
from kdlib.errors import MAX_TEMPERATURE, Unfinished
from kdlib.files import locked, made, replacing
from kdlib.md import liquid
from kdlib.md.dynamics import MeltProtocol
from kdlib.results.hashes import digest
from kdlib.training import accuracy

__all__ = [
    "FULL", "QUICK", "AceProtocol", "AceSize", "dataset", "errors", "recorded", "run", "table",
]  # fmt: skip


def run(
    out: str | Path, frames: Sequence[Atoms], split: Split, protocol: AceProtocol = FULL
) -> xr.Dataset:
    """Fit, evaluate and time all sizes, and write the result to a NetCDF file.

    Parameters
    ----------
    out
        Beside it, a JSON file keeps every prediction and time as it ends.

    Raises
    ------
    InputError
        The environment cannot be made.
    Unfinished
        A fit or a prediction broke off.
    """
    began, out = time.perf_counter(), Path(out)
    made(out.parent)
    work = _Work(environment.program(protocol.requirements), out.with_suffix(".json"), protocol)
    parts = split.parts(frames)
    record = {size.label: work.fitted(size, parts) for size in protocol.sizes}
    starts = _starts(frames, protocol)
    for size in protocol.sizes:
        record[size.label]["times"] = work.times(record[size.label], starts)
    ds = dataset(record, protocol, classical.force_errors(parts)).assign_attrs(
        dataset_sha256=datasets.fingerprint(frames), split_sha256=split.sha256,
        cores=processes.cores(), protocol=repr(protocol),
    )  # fmt: skip
    results.save(ds, out, kind="benchmark", wall_time=time.perf_counter() - began)
    return results.load(out, "benchmark")


def recorded(folder: str | Path) -> xr.Dataset | None:
    """Return what ``kdlib bench --ace`` measured for a results folder, ``ace.nc`` in it, if any."""
    path = Path(folder) / "ace.nc"
    return results.load(path, "benchmark") if path.is_file() else None


def _starts(frames: Sequence[Atoms], protocol: AceProtocol) -> list[Atoms]:
    """Liquids with velocities, one for each size of the timed cells."""
    stages = dict.fromkeys(
        ("melt_steps", "quench_steps", "equilibration_steps"), protocol.melt_steps
    )
    melt = MeltProtocol(temperature=protocol.temperature, **stages)
    start = liquid.configuration(frames, min(protocol.n_atoms), melt)
    sizes = liquid.fitting({"all": protocol.n_atoms}, len(start))["all"]
    return [liquid.enlarged(start, n, protocol.temperature) for n in sizes]


class _Work:
    """Stages of the worker, each done once."""

    def __init__(self, python: Path, path: Path, protocol: AceProtocol) -> None:
        self.python, self.path, self.protocol = python, path, protocol
        self.known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.folder = registry.cache().absolute() / "linear-ace"

    def fitted(self, size: AceSize, parts: Mapping[str, Sequence[Atoms]]) -> dict[str, Any]:
        """Fit of one size, its choice of the weight and its errors; ``model`` is its file."""
        folder, fit = self._fit(size, parts["train"])
        models = [folder / f"{k}.npz" for k in range(len(self.protocol.energy_weights))]
        found = [errors(parts["valid"], self._predicted(m, parts["valid"])) for m in models]
        scores = [selection(one, self.protocol) for one in found]
        chosen = int(np.argmin(scores))
        of_parts = {
            part: accuracy.summary(errors(some, self._predicted(models[chosen], some)))
            for part, some in parts.items()
            if part != "train"
        }
        progress.line(
            f"{size.label}: fitted in {fit['fit_time']:.0f} s, force RMSE "
            f"{of_parts['test']['force_rmse']:.4f} eV/Angstrom on test"
        )
        return {
            "fit": fit, "selection": scores, "chosen": chosen, "errors": of_parts,
            "model": models[chosen],
        }  # fmt: skip

    def times(self, record: Mapping[str, Any], starts: Sequence[Atoms]) -> list[dict[str, Any]]:
        """Run the model of a record with all engines and numbers of threads, from each start."""
        return [run for start in starts for run in self._times(record["model"], start)]

    def _fit(self, size: AceSize, train: Sequence[Atoms]) -> tuple[Path, dict[str, Any]]:
        """Folder of the models, one for each weight, and what is known of their fit."""
        p = self.protocol
        job = {
            "order": size.order, "degree": size.degree, "cutoff": p.cutoff,
            "energy_weights": list(p.energy_weights),
        }  # fmt: skip
        home = self.folder / f"fit-{_key(p, 'fit', job, datasets.fingerprint(train))}"
        path = home / "fit.json"
        with locked(home):
            if not path.is_file():
                progress.line(f"{size.label}: fitting {len(train)} frames")
                exchange.write(train, home / "train.xyz")
                job |= {"train": str(home / "train.xyz"), "models": str(home)}
                found = environment.call(self.python, "fit", job)
                _write(found, path)
        return home, json.loads(path.read_text(encoding="utf-8"))

    def _predicted(self, model: Path, frames: Sequence[Atoms]) -> dict[str, Any]:
        if not len(frames):
            return {}
        key = _key(self.protocol, "predict", _content(model), datasets.fingerprint(frames))
        if key not in self.known:
            path = exchange.write(frames, model.parent / "predicted.xyz")
            job = {"model": str(model), "frames": str(path)}
            self._keep(key, environment.call(self.python, "predict", job))
        return self.known[key]

    def _times(self, model: Path, start: Atoms) -> list[dict[str, Any]]:
        """Run the engines with all numbers of threads; what fails says why."""
        path = exchange.write([start], model.parent / "start.xyz")
        return [
            {"engine": engine, "threads": threads, "n_atoms": len(start)}
            | self._timed(model, path, engine, threads)
            for engine in ENGINES
            for threads in self.protocol.all_threads
        ]

    def _timed(self, model: Path, start: Path, engine: str, threads: int) -> dict[str, Any]:
        if engine == "kernel" and threads > 1:
            return {"status": "has one thread"}
        names = ("n_steps", "repeats", "warmup_steps", "budget", "timestep", "skin")
        job = {"engine": engine, **{name: getattr(self.protocol, name) for name in names}}
        key = _key(self.protocol, "time", job, threads, _content(model), _content(start))
        if key not in self.known:
            job |= {"model": str(model), "start": str(start)}
            try:
                found = environment.call(self.python, "time", job, threads)
            except Unfinished as error:  # the other engine can still be measured
                progress.line(str(error))
                return {"status": f"failed: {error}"}
            self._keep(key, found)
        found = self.known[key]
        if not found["temperature"] < MAX_TEMPERATURE:
            return {"status": "failed: the run exploded"}
        return {"status": "measured", **found}

    def _keep(self, key: str, found: dict[str, Any]) -> None:
        self.known[key] = found
        _write(self.known, self.path)


def _key(protocol: AceProtocol, *parts: Any) -> str:
    """Hash of everything that a result depends on: packages, our worker, and these parts."""
    texts = [json.dumps(part, sort_keys=True) for part in parts]
    return digest(_content(environment.WORKER), *sorted(protocol.requirements), *texts)[:16]


def _content(path: Path) -> str:
    return digest(path.read_bytes())


def _write(found: Mapping[str, Any], path: Path) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(found) + "\n", encoding="utf-8")

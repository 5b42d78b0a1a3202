"""Effect of active learning: errors of ensembles trained with and without its frames.

One ensemble is trained without actively learned frames, one with those of round 1, one with those
of rounds 1 and 2, and so on: same architecture, seeds and number of optimizer steps, so that more
frames do not also mean more training. Each is evaluated on frames that it was not trained on: the
test part, its compressed and its other frames, and the rounds' frames. The control includes all
rounds but omits as many sampled frames, drawn at random: it tells better frames from more frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms

from al_pbe import ensemble
from al_pbe.sampling import ACTIVE
from kdlib import datasets
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.training import TrainingConfig, accuracy

#: Groups of frames on which ensembles are evaluated, beside those of the rounds.
TEST, COMPRESSED_TEST = "test", "compressed test"


def gains(
    frames: Sequence[Atoms],
    folder: Path,
    n_models: int = 4,
    config: HipnnConfig = ensemble.ARCHITECTURE,
    settings: TrainingConfig = ensemble.TRAINING,
) -> xr.Dataset:
    """Train an ensemble for each number of rounds and evaluate it on unseen frames.

    Parameters
    ----------
    frames
        Labeled frames; actively learned ones have ``info["round"]`` and are in the training part.
    folder
        Finished trainings in this folder are reused.
    settings
        Training of the ensemble without actively learned frames; the others get fewer epochs of
        more frames.

    Returns
    -------
    xr.Dataset
        ``error(training, member, evaluated)``, force RMSE, eV/Angstrom, NaN where the ensemble was
        trained on the frames; ``traded_error(member, evaluated)`` of the control;
        ``n_training(training)``; ``n_frames(evaluated)``; ``n_labelled(round)``; and
        ``disagreement(round, trajectory)``, eV/Angstrom, of the ensemble that selected the labeled
        frames, NaN for trajectories without one.
    """
    rounds = numbers(frames)
    groups = _groups(frames, rounds)
    training = [0, *rounds]
    error = np.full((len(training), n_models, len(groups)), np.nan)
    sizes: list[int] = []
    for i, last in enumerate(training):
        seen = [atoms for atoms in frames if _round(atoms) <= last]
        sizes.append(len(datasets.split(seen).train))
        alike = _as_many_steps(settings, sizes[0] / sizes[-1])
        home = folder / f"rounds_{last}"
        models = ensemble.train(seen, home, n_models, config, alike)
        error[i] = _errors(models, groups, [_name(n) for n in rounds if n <= last])
    ds = _described(training, sizes, groups, error).merge(_found(frames, rounds))
    seen = traded(frames)
    if rounds and len(seen):
        models = ensemble.train(seen, folder / "traded", n_models, config, settings)
        about = _about("force RMSE with frames traded for those of active learning", "eV/Angstrom")
        found = _errors(models, groups, [_name(n) for n in rounds])
        ds["traded_error"] = (("member", "evaluated"), found, about)
    return ds


def traded(frames: Sequence[Atoms], seed: int = 0) -> list[Atoms]:
    """Omit as many sampled training frames as active learning added; empty if there are too few."""
    train = datasets.split(frames).train
    sampled = [k for k in train if not _round(frames[k])]
    n_added = len(train) - len(sampled)
    if n_added >= len(sampled):
        return []
    left_out = set(np.random.default_rng(seed).permutation(sampled)[:n_added].tolist())
    return [atoms for k, atoms in enumerate(frames) if k not in left_out]


def numbers(frames: Sequence[Atoms]) -> list[int]:
    """Rounds of active learning among frames, ascending.

    Raises InputError when one of their frames is not in the training part.
    """
    found = [atoms for atoms in frames if _round(atoms)]
    for atoms in found:
        if atoms.info.get("part") != "train":
            raise InputError(f"frame {atoms.info['frame']}: active learning is for training only")
    return sorted({_round(atoms) for atoms in found})


def table(ds: xr.Dataset) -> pd.DataFrame:
    """Labeled frames and quartiles of their disagreement (eV/Angstrom), by round of `gains`."""
    found = ds.disagreement
    rows = {"labeled": ds.n_labelled}
    for share, name in ((0.25, "lower quartile"), (0.5, "median"), (0.75, "upper quartile")):
        rows[f"{name} of disagreement"] = found.quantile(share, "trajectory")
    return pd.DataFrame({name: row.to_series() for name, row in rows.items()})


def _as_many_steps(settings: TrainingConfig, share: float) -> TrainingConfig:
    """Scale the numbers of epochs so that longer epochs give the same number of steps."""
    counts = ("max_epochs", "lr_patience")
    return replace(settings, **{n: max(1, round(getattr(settings, n) * share)) for n in counts})


def _round(atoms: Atoms) -> int:
    """Round that selected a frame, 0 for sampled ones."""
    return int(atoms.info["round"]) if int(atoms.info.get("frame", 0)) >= ACTIVE else 0


def _name(number: int) -> str:
    return f"round {number}"


def _groups(frames: Sequence[Atoms], rounds: Sequence[int]) -> dict[str, list[Atoms]]:
    """Name -> frames on which ensembles are evaluated."""
    split = datasets.split(frames)
    parts = {TEST: split.test, COMPRESSED_TEST: split.compressed}
    tests = {name: [frames[k] for k in indices] for name, indices in parts.items()}
    return tests | {_name(n): [atoms for atoms in frames if _round(atoms) == n] for n in rounds}


def _errors(
    models: Sequence[Potential], groups: Mapping[str, list[Atoms]], seen: Sequence[str]
) -> np.ndarray:
    """Force RMSE, (member, group); NaN for groups that were trained on, and for empty ones."""
    error = np.full((len(models), len(groups)), np.nan)
    for k, (name, group) in enumerate(groups.items()):
        if group and name not in seen:
            errors = [accuracy.residuals(model, group)["force"] for model in models]
            error[:, k] = [accuracy.rmse(found) for found in errors]
    return error


def _described(
    training: list[int], sizes: list[int], groups: dict[str, list[Atoms]], error: np.ndarray
) -> xr.Dataset:
    dims = ("training", "member", "evaluated")
    ds = xr.Dataset(
        {
            "error": (dims, error, _about("force RMSE on frames not trained on", "eV/Angstrom")),
            "n_training": ("training", sizes, _about("frames in the training part")),
            "n_frames": (
                "evaluated", [len(group) for group in groups.values()],
                _about("frames that are asked about"),
            ),
        },
        coords={"training": training, "member": range(error.shape[1]), "evaluated": list(groups)},
    )  # fmt: skip
    ds["training"].attrs = _about("rounds of active learning in the training part")
    ds["member"].attrs = _about("seed of a member of the ensemble")
    ds["evaluated"].attrs = {"long_name": "frames that are asked about"}
    return ds


def _found(frames: Sequence[Atoms], rounds: Sequence[int]) -> xr.Dataset:
    """Read from the frames how the rounds selected them."""
    infos = [atoms.info for atoms in frames if _round(atoms)]
    trajectories = sorted({int(info["trajectory"]) for info in infos})
    disputed = np.full((len(rounds), len(trajectories)), np.nan)
    for info in infos:
        at = rounds.index(info["round"]), trajectories.index(info["trajectory"])
        disputed[at] = info["disagreement"]
    about = _about("largest disagreement along the trajectory of a labeled frame", "eV/Angstrom")
    return xr.Dataset(
        {
            "n_labelled": (
                "round", np.isfinite(disputed).sum(axis=1), _about("frames that were labeled")
            ),
            "disagreement": (("round", "trajectory"), disputed, about),
        },
        coords={
            "round": ("round", list(rounds), _about("round of active learning")),
            "trajectory": ("trajectory", trajectories, _about("index of the trajectory")),
        },
    )  # fmt: skip


def _about(meaning: str, unit: str = "1") -> dict[str, str]:
    return {"units": unit, "long_name": meaning}

"""What active learning did: errors of ensembles trained with and without its frames.

One ensemble is trained without actively learned frames, one with those of round 1, one with those
of rounds 1 and 2, and so on: same architecture, seeds and number of optimizer steps, so that more
frames do not also mean more training. Each is asked about frames that it has not seen: the test
part, its compressed frames and its others, and what the rounds found. The control has all the
rounds, but as many of the other frames, drawn at random, are left out: it tells better frames from
more frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms

from al_pbe import ensemble
from al_pbe.sampling import ACTIVE, COMPRESSED, LARGE
from kdlib import datasets
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.training import TrainingConfig, accuracy

#: Parts of the data on which ensembles are judged, beside those of the rounds.
TEST, COMMON_TEST, COMPRESSED_TEST = "test", "common test", "compressed test"


def gains(
    frames: Sequence[Atoms],
    folder: Path,
    n_models: int = 4,
    config: HipnnConfig = ensemble.ARCHITECTURE,
    settings: TrainingConfig = ensemble.TRAINING,
) -> xr.Dataset:
    """Train an ensemble for each number of rounds and ask it about frames it has not seen.

    Parameters
    ----------
    frames
        Labelled frames; those of active learning know their ``round`` and are in the training part.
    folder
        Where trainings are kept; finished ones are found again.
    n_models
        Size of an ensemble.
    config, settings
        Architecture and training of the ensemble without actively learned frames; the others get
        fewer epochs of more frames.

    Returns
    -------
    xarray.Dataset
        ``error(training, member, evaluated)``, force RMSE, eV/Angstrom, NaN where the ensemble was
        trained on the frames; ``traded_error(member, evaluated)`` of the control;
        ``n_training(training)``; ``n_frames(evaluated)``; and of the labelled frames
        ``n_labelled(round)`` and ``disagreement(round, trajectory)``, eV/Angstrom, of the ensemble
        that found them, NaN for trajectories of which none was labelled.
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
    """Frames without as many of the sampled training frames as active learning has added.

    Parameters
    ----------
    frames
        Labelled frames.
    seed
        Of the draw.

    Returns
    -------
    list[Atoms]
        Empty where there are not enough to leave out.
    """
    train = datasets.split(frames).train
    sampled = [k for k in train if not _round(frames[k])]
    n_added = len(train) - len(sampled)
    if n_added >= len(sampled):
        return []
    left_out = set(np.random.default_rng(seed).permutation(sampled)[:n_added].tolist())
    return [atoms for k, atoms in enumerate(frames) if k not in left_out]


def numbers(frames: Sequence[Atoms]) -> list[int]:
    """Rounds of active learning that frames come from, ascending.

    Raises
    ------
    InputError
        When one of their frames is not in the training part.
    """
    found = [atoms for atoms in frames if _round(atoms)]
    for atoms in found:
        if atoms.info.get("part") != "train":
            raise InputError(f"frame {atoms.info['frame']}: active learning is for training only")
    return sorted({_round(atoms) for atoms in found})


def table(ds: xr.Dataset) -> pd.DataFrame:
    """Rounds of active learning, a row each.

    Parameters
    ----------
    ds
        From :func:`gains`.

    Returns
    -------
    pandas.DataFrame
        Frames labelled and quartiles of the disagreement on them (eV/Angstrom).
    """
    found = ds.disagreement
    rows = {"labelled": ds.n_labelled}
    for share, name in ((0.25, "lower quartile"), (0.5, "median"), (0.75, "upper quartile")):
        rows[f"{name} of disagreement"] = found.quantile(share, "trajectory")
    return pd.DataFrame({name: row.to_series() for name, row in rows.items()})


def _as_many_steps(settings: TrainingConfig, share: float) -> TrainingConfig:
    """Settings of a training whose epochs are longer: their share of the epochs and of patience."""
    counts = ("max_epochs", "lr_patience")
    return replace(settings, **{n: max(1, round(getattr(settings, n) * share)) for n in counts})


def _round(atoms: Atoms) -> int:
    """Number of the round that found a frame, 0 for the others."""
    return int(atoms.info["round"]) if int(atoms.info.get("frame", 0)) >= ACTIVE else 0


def _name(number: int) -> str:
    return f"round {number}"


def _groups(frames: Sequence[Atoms], rounds: Sequence[int]) -> dict[str, list[Atoms]]:
    """Name -> frames on which ensembles are judged."""
    test = [frames[k] for k in datasets.split(frames).test]
    squeezed, common = [], []
    for atoms in test:
        compressed = COMPRESSED <= int(atoms.info.get("frame", 0)) < LARGE
        (squeezed if compressed else common).append(atoms)
    found = {_name(n): [atoms for atoms in frames if _round(atoms) == n] for n in rounds}
    return {TEST: test, COMMON_TEST: common, COMPRESSED_TEST: squeezed, **found}


def _errors(
    models: Sequence[Potential], groups: Mapping[str, list[Atoms]], seen: Sequence[str]
) -> np.ndarray:
    """Force RMSE over (member, group); NaN for groups that were learnt, and empty ones."""
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
    """What the frames themselves tell of the rounds that found them."""
    infos = [atoms.info for atoms in frames if _round(atoms)]
    trajectories = sorted({int(info["trajectory"]) for info in infos})
    disputed = np.full((len(rounds), len(trajectories)), np.nan)
    for info in infos:
        at = rounds.index(info["round"]), trajectories.index(info["trajectory"])
        disputed[at] = info["disagreement"]
    about = _about("largest disagreement along the trajectory of a labelled frame", "eV/Angstrom")
    return xr.Dataset(
        {
            "n_labelled": (
                "round", np.isfinite(disputed).sum(axis=1), _about("frames that were labelled")
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

"""The training loop: minibatches, selection of the best weights, learning rate, checkpoints.

Everything random follows from the seed: initial weights from ``seed``, the minibatches of an epoch
from ``(seed, epoch)``. A checkpoint holds all that the next epoch depends on: one safetensors file,
replaced whole, with weights, optimizer moments and the best weights so far as tensors, and history
and counters as JSON. Reading one executes no code.

Steps are those of :mod:`kdlib.training.directstep` or, on a GPU, :mod:`kdlib.training.devicestep`
where these cover the network, and otherwise steps of torch's autograd.
"""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from ase import Atoms
from safetensors import safe_open
from safetensors.torch import save as serialized
from torch import Tensor

from kdlib import hipnn
from kdlib.datasets import Split, identity
from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.hipnn import HipnnConfig, HipnnModule, batches, kernels
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.calculator import torch_device
from kdlib.hipnn.device import on_device
from kdlib.hipnn.kernels.gradients import obstacle
from kdlib.hipnn.kernels.threads import torch_threads
from kdlib.training import losses
from kdlib.training.accuracy import TARGETS, TargetErrors
from kdlib.training.config import TrainingConfig
from kdlib.training.directstep import DirectStep
from kdlib.training.framestore import FrameStore
from kdlib.training.losses import LossWeights, WeightSchedule
from kdlib.training.references import fit_e0
from kdlib.training.soap import Soap

if TYPE_CHECKING:
    from kdlib.training.devicestep import DeviceStep

_SEPARATOR = "|"


def save(path: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write named groups of tensors and a JSON-able state as one file."""
    flat = {
        group + _SEPARATOR + name: tensor.detach().cpu().contiguous().clone()
        for group, members in tensors.items()
        for name, tensor in members.items()
    }
    with replacing(path) as part:
        part.write_bytes(serialized(flat, metadata={"state": json.dumps(state)}))


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what :func:`save` wrote.

    Raises
    ------
    InputError
        The file is truncated or altered.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            for key in file.keys():  # noqa: SIM118 - not a dict
                group, name = key.split(_SEPARATOR, 1)
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable checkpoint ({reason}); delete it") from error
    return groups, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimizer, by the parameter's position."""
    return {
        f"{index}.{name}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


#: Most atoms per batch of the validation part: bounds the memory, not the result.
VALIDATION_ATOMS = 2048
_PARTS = ("train", "valid")
_log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """A training cannot continue; the message names epoch, batch and frames."""


class Loop:
    """State of one training between epochs."""

    def __init__(
        self,
        config: HipnnConfig,
        training: TrainingConfig,
        schedule: WeightSchedule,
        frames: Sequence[Atoms],
        split: Split,
    ) -> None:
        self.training, self.schedule = training, schedule
        if training.cell_atoms:
            self.schedule = schedule.referred_to(training.cell_atoms)
        self.device = torch_device(training.device)
        self.module = hipnn.build(config, training.seed)
        for k in (*split.train, *split.valid):
            self.module.check_species(frames[k].numbers, f"frame {identity(frames[k])}")
        # E0 is fixed from here on, and subtracted from the energies of the batches.
        fit_e0(self.module, [frames[k] for k in split.train], training.e0_decay)

        def part(indices: np.ndarray) -> list[Batch]:
            # The frames do not move: pairs are searched once.
            return [self.module.batch(frames[k]) for k in indices]

        self.train, self.train_ids = part(split.train), [identity(frames[k]) for k in split.train]
        self.valid = part(split.valid)
        self._check_stresses()
        self.module.to(self.device)
        use_backend(self.module, training.backend)
        # Gradients are requested by name: those by the pair vectors would cost a kernel.
        self.trainable = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = self._make_optimizer()
        self._place()
        self.epoch = 0
        self.rows: list[dict[str, float]] = []
        self.best = {"selection": np.inf, "epoch": 0, "lr_wait": 0, "stop_wait": 0}
        self.best_state = _tensors(self.module)
        self.seconds = 0.0

    def _make_optimizer(self) -> torch.optim.Optimizer:
        rate, on_cuda = self.training.learning_rate, self.device.type == "cuda"
        if on_cuda:  # captured steps read it
            rate = torch.tensor(rate, device=self.device)
        if self.training.optimizer == "soap":
            decay = self.training.weight_decay
            return Soap(self.module, rate, weight_decay=decay, frames=self.train)
        return torch.optim.Adam(self.trainable, lr=rate, fused=True, capturable=on_cuda)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is reached, or the patience of the last stage is used up."""
        in_last = self.epoch >= self.schedule.last_start
        patient = self.training.rate_schedule == "cosine"
        stop = in_last and not patient and self.best["stop_wait"] >= self.training.stop_patience
        return self.epoch >= self.training.max_epochs or stop

    def _place(self) -> None:
        """Put the frames where and how the steps need them."""
        #: Steps without autograd on the CPU or on a device; None where they are not covered.
        self._direct: DirectStep | None = None
        self._on_device: DeviceStep | None = None
        #: The training part where steps with autograd run; None on the CPU.
        self._store: FrameStore | None = None
        if self.training.backend == "fused" and not obstacle(self.module):
            if not on_device(next(self.module.parameters())):
                self._direct = DirectStep(self.module, self.optimizer, self.train, self.valid)
            elif not self.schedule.needs_stress:
                self._on_device = self._device_step()
            if self._direct or self._on_device:
                self.train = self.valid = []  # the steps keep their pairs
                return
        if self.device.type != "cpu":
            self._store = FrameStore(self.train, self.device)
        valid = batches.chunks(self.valid, VALIDATION_ATOMS)
        self.valid = [batch.to(self.device) for batch in valid]

    def _device_step(self) -> "DeviceStep":
        from kdlib.training.devicestep import DeviceStep  # needs Triton

        return DeviceStep(
            self.module, self.optimizer, self.train, self.valid, self.training.batch_size
        )

    def _check_stresses(self) -> None:
        for wanted, part, what, name in (
            (self.schedule.needs_stress, self.train, "the loss", "training"),
            (self.training.selects_by_stress, self.valid, "the selection", "validation"),
        ):
            if wanted and not any(batch.has_stress.any() for batch in part):
                raise InputError(f"fit: {what} weights stresses but no {name} frame has one")

    def run_epoch(self) -> None:
        """One pass over the training part, then validation, selection and learning rate."""
        with torch_threads():  # also for the loops that hippynn's layers run backward
            self._run_epoch()

    def _run_epoch(self) -> None:
        started = time.perf_counter()
        self.epoch += 1
        # Under other weights the model heads elsewhere: a best epoch of an earlier stage, and the
        # patience that it used up, do not count.
        if self.schedule.starts_stage(self.epoch):
            self.best |= {"selection": np.inf, "lr_wait": 0, "stop_wait": 0}
        rate = self.training.scheduled_rate(self.epoch)
        if rate is not None:
            self._set_rate(rate)
        weights = self.schedule.at(self.epoch)
        row = self._pass(weights) | self._valid_errors().row("valid")
        row["selection"] = self._selection(row)
        if not np.isfinite(row["selection"]):
            raise TrainingError(f"epoch {self.epoch}: the error on the validation part is "
                                f"{row['selection']}")  # fmt: skip
        row["learning_rate"] = self.learning_rate
        row |= {f"weight_{name}": getattr(weights, name) for name in TARGETS}
        self._select(row["selection"])
        self.seconds += time.perf_counter() - started
        row["seconds"] = self.seconds
        self.rows.append(row)

    def _valid_errors(self) -> TargetErrors:
        if self._direct is not None:
            return self._direct.valid_errors(VALIDATION_ATOMS)
        if self._on_device is not None:
            return self._on_device.valid_errors()
        return TargetErrors.of(self.module, self.valid)

    def _selection(self, row: dict[str, float]) -> float:
        """Measure of improvement."""
        config = self.training
        if config.selection == "training_loss":
            return row["loss"]
        # One yardstick for all roles, without atomic energies: otherwise a student's kept epoch
        # would differ from its control's because of the yardstick.
        weights = {
            "cell_energy": config.selection_energy,
            "force": config.selection_force,
            "stress": config.selection_stress,
        }
        errors = {name: row[f"{name}_rmse_valid"] + row[f"{name}_mae_valid"] for name in weights}
        if config.cell_atoms:
            per_atom = row["energy_rmse_valid"] + row["energy_mae_valid"]
            errors["cell_energy"] = config.cell_atoms * per_atom
        return sum(weight * errors[name] for name, weight in weights.items() if weight)

    def _pass(self, weights: LossWeights) -> dict[str, float]:
        order = np.random.default_rng([self.training.seed, self.epoch]).permutation(
            len(self.train_ids)
        )
        size = self.training.batch_size
        errors, collected = TargetErrors(), []
        for number, start in enumerate(range(0, len(order), size)):
            chosen = order[start : start + size]
            collected.append(self._step(weights, number, chosen, errors))
        found = {name: torch.stack([c[name].detach() for c in collected]) for name in collected[0]}
        for number, loss in enumerate(found["loss"].cpu()):
            self._check(loss, number, order[number * size : (number + 1) * size])
        return {name: value.mean().item() for name, value in found.items()} | errors.row("train")

    def _step(
        self, weights: LossWeights, number: int, chosen: np.ndarray, errors: TargetErrors
    ) -> dict[str, Tensor]:
        """One step of the optimizer; loss and terms."""
        if self._direct is not None:
            return self._direct_step(weights, number, chosen, errors)
        if self._on_device is not None:
            values, differences = self._on_device(chosen, weights)
            errors.add_differences(differences)
            return values
        batch = self._batch(chosen)
        prediction = self.module(batch, stress=weights.stress > 0, create_graph=True)
        terms = losses.terms(self.module, prediction, batch, weights)
        loss = losses.total(terms, weights)
        if self._store is None:  # a device is not asked before the end of the epoch
            self._check(loss, number, chosen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=self.trainable)
        self.optimizer.step()
        errors.add(prediction, batch)
        return {"loss": loss, **{f"loss_{k}": v for k, v in terms.items()}}

    def _direct_step(
        self, weights: LossWeights, number: int, chosen: np.ndarray, errors: TargetErrors
    ) -> dict[str, Tensor]:
        values, differences = self._direct.gradient(chosen, weights)
        numbers = torch.tensor([*values.values()], dtype=torch.float64)
        values = dict(zip(values, numbers, strict=True))
        self._check(values["loss"], number, chosen)
        self._direct.move()
        errors.add_differences(differences)
        return values

    def _batch(self, chosen: np.ndarray) -> Batch:
        """Join frames to a batch, where the training runs."""
        if self._store is not None:
            return self._store.batch(chosen)
        return batches.collate([self.train[k] for k in chosen])

    def _check(self, loss: Tensor, number: int, chosen: np.ndarray) -> None:
        if not torch.isfinite(loss):
            names = ", ".join(self.train_ids[k] for k in chosen)
            raise TrainingError(f"epoch {self.epoch}, batch {number}: the loss is "
                                f"{loss.item()} (frames {names})")  # fmt: skip

    def _select(self, value: float) -> None:
        best, config = self.best, self.training
        if value < best["selection"]:
            best |= {"selection": value, "epoch": self.epoch, "lr_wait": 0, "stop_wait": 0}
            self.best_state = _tensors(self.module)
            return
        best["lr_wait"] += 1
        best["stop_wait"] += 1
        if best["lr_wait"] >= config.lr_patience and config.rate_schedule == "plateau":
            best["lr_wait"] = 0
            self._set_rate(self.learning_rate * config.lr_factor)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the optimizer."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # in place: captured steps read it
            else:
                group["lr"] = rate

    def checkpoint(self, path: Path, key: str) -> None:
        """Write all that the next epoch depends on."""
        tensors = {
            "module": _tensors(self.module),
            "best": self.best_state,
            "optimizer": optimizer_tensors(self.optimizer),
        }
        state = {
            "key": key, "epoch": self.epoch, "best": self.best, "rows": self.rows,
            "seconds": self.seconds, "learning_rate": self.learning_rate,
        }  # fmt: skip
        save(path, tensors, state)

    def restore(self, path: Path, key: str) -> None:
        """Resume from a checkpoint of this run; another run's is ignored."""
        tensors, state = load(path)
        if state["key"] != key:
            return
        self.module.load_state_dict(hipnn.complete_state(self.module, tensors["module"]))
        self.best_state = tensors["best"]
        restore_optimizer(self.optimizer, tensors["optimizer"])
        if self._direct is not None:
            self._direct.adopt()
        self._set_rate(state["learning_rate"])
        self.epoch, self.rows, self.seconds = state["epoch"], state["rows"], state["seconds"]
        self.best = state["best"]

    def best_module(self) -> HipnnModule:
        """Model with the best weights."""
        self.module.load_state_dict(hipnn.complete_state(self.module, self.best_state))
        return self.module

    def history(self) -> xr.Dataset:
        """Record of all epochs, over epoch and part."""
        return _as_history(self.rows, self.best["epoch"])


def use_backend(module: HipnnModule, backend: str) -> None:
    """Compute with hippynn's layers, or with the fused kernels where possible; log if not."""
    if backend != "fused":
        kernels.restore(module)
    elif reason := kernels.supports(module):
        _log.warning("stock hippynn kernels are used: %s", reason)
    else:
        kernels.accelerate(module)


def _tensors(module: HipnnModule) -> dict[str, Tensor]:
    state = module.state_dict()
    return {k: v.detach().clone() for k, v in state.items() if isinstance(v, Tensor)}


def _as_history(rows: Sequence[dict[str, float]], best_epoch: int) -> xr.Dataset:
    def column(name: str) -> list[float]:
        return [row.get(name, np.nan) for row in rows]

    names = ("loss", "selection", "learning_rate", "seconds", *(f"weight_{t}" for t in TARGETS))
    ds = xr.Dataset({name: ("epoch", column(name)) for name in names})
    for name in (f"{target}_{measure}" for target in TARGETS for measure in ("rmse", "mae")):
        ds[name] = (("epoch", "split"), np.transpose([column(f"{name}_{p}") for p in _PARTS]))
    terms = np.transpose([column(f"loss_{term}") for term in losses.TERMS])
    ds["loss_term"] = (("epoch", "term"), terms)
    coords = {"epoch": np.arange(1, len(rows) + 1), "split": list(_PARTS)}
    ds = ds.assign_coords(coords | {"term": list(losses.TERMS)})
    return ds.assign_attrs(best_epoch=best_epoch)

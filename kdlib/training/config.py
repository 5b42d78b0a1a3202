"""Settings of a training: what a profile's mapping ``training`` may hold."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from kdlib.errors import InputError

#: Settings that do not change what a training learns.
_WHERE = frozenset({"checkpoint_every", "device"})


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; the defaults are the paper's (A.1) or the authors' student script."""

    seed: int = 0
    """Seed of initial weights and minibatch order."""
    batch_size: int = 64
    """Frames per optimizer step."""
    max_epochs: int = 500
    learning_rate: float = 1e-3
    """Initial learning rate."""
    optimizer: str = "adam"
    """``"adam"``, the paper's, or ``"soap"``: Adam in the principal axes of each layer's gradient
    (:mod:`kdlib.training.soap`), which needs several times fewer epochs.
    """
    weight_decay: float = 0.0
    """Each step of SOAP multiplies the weights of layers by 1 - learning rate * ``weight_decay``,
    so that large networks overfit less in long trainings. Biases and energy outputs are spared.
    """
    rate_schedule: str = "plateau"
    """``"plateau"``, the paper's rule of the two patiences, or ``"cosine"``: half a cosine over all
    epochs, without early stopping, so that all roles take equally many steps.
    """
    warmup_epochs: int = 0
    """Epochs at the start in which the rate rises in equal steps."""
    final_rate: float = 0.01
    """Learning rate at the end of the cosine, relative to the initial one."""
    lr_factor: float = 0.5
    lr_patience: int = 30
    """The rate is multiplied by ``lr_factor`` after ``lr_patience`` epochs without improvement."""
    stop_patience: int = 50
    """Epochs without improvement after which the training ends."""
    selection: str = "validation"
    """Measure of improvement: ``"validation"``, one error on the validation part for every role
    (RMSE + MAE of the cell energy times ``selection_energy`` plus RMSE + MAE of force components
    times ``selection_force``, DFT targets only), or ``"training_loss"``, each role's own training
    loss, as in the authors' script.
    """
    selection_energy: float = 1.0
    selection_force: float = 10.0
    selection_stress: float = 0.0
    """Weights in that error, per eV, eV/Angstrom and eV/Angstrom^3. 0 leaves the stress out, as in
    the paper; where it matters (NPT), use the loss's w_S.
    """
    cell_atoms: float = 0.0
    """Number of atoms that the weights of energies refer to, in the loss and in the selection: the
    error per atom times this number takes the place of that of the cell. 0: the cell as it is, as
    printed in the paper, whose cells have 55 to 250 atoms; 130, a typical one of them, gives w_E
    the paper's balance against w_F on cells of another size.
    """
    e0_decay: float = 1e-2
    """Damping of the energy layers after the fit of E0."""
    checkpoint_every: int = 10
    """Epochs between checkpoints."""
    backend: str = "fused"
    """``"fused"`` kernels, or stock ``"hippynn"``."""
    device: str = "cpu"
    """``"cpu"``, ``"cuda"`` or ``"auto"``."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "learning_rate", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise InputError(f"TrainingConfig: {name} is {getattr(self, name)}, must be > 0")
        weights = [getattr(self, f"selection_{name}") for name in ("energy", "force", "stress")]
        nothing = self.selection == "validation" and not any(weights)
        if nothing or not all(0 <= weight < float("inf") for weight in weights):
            raise InputError(f"TrainingConfig: the weights of the selection are {weights}, must be "
                             "finite and >= 0, not all 0")  # fmt: skip
        for name in ("warmup_epochs", "final_rate", "weight_decay", "cell_atoms"):
            if not getattr(self, name) >= 0:
                raise InputError(f"TrainingConfig: {name} is {getattr(self, name)}, must be >= 0")
        choices = {
            "selection": ("validation", "training_loss"),
            "optimizer": ("adam", "soap"),
            "backend": ("fused", "hippynn"),
            "rate_schedule": ("plateau", "cosine"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"TrainingConfig: {name} is {getattr(self, name)!r}, must be "
                                 f"{' or '.join(map(repr, allowed))}")  # fmt: skip
        if self.weight_decay and self.optimizer != "soap":
            raise InputError("TrainingConfig: weight_decay needs the optimizer 'soap'")
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise InputError(f"TrainingConfig: device is {self.device!r}, must be 'auto', 'cpu' or "
                             "'cuda'")  # fmt: skip

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> "TrainingConfig":
        """Settings of a profile, checked; the others have their defaults.

        The seed is not among them, since a sweep has one for each training.

        Raises
        ------
        InputError
            Names a setting that does not exist, or whose value has another type or is out of range.
        """
        types = {field.name: field.type for field in fields(cls) if field.name != "seed"}
        for name, value in settings.items():
            if name not in types:
                raise InputError(f"training: no setting {name!r} (there are: {', '.join(types)})")
            allowed = (int, float) if types[name] is float else types[name]
            if isinstance(value, bool) or not isinstance(value, allowed):
                hint = " (in YAML: 1.0e-3, not 1e-3)" if isinstance(value, str) else ""
                raise InputError(f"training: {name} must be {types[name].__name__}, got "
                                 f"{value!r}{hint if types[name] is float else ''}")  # fmt: skip
        return cls(**settings)

    @property
    def attrs(self) -> dict[str, object]:
        """Attributes of a result file: all settings that matter, except for the seed."""
        return {k: v for k, v in asdict(self).items() if k not in _WHERE | {"seed"}}

    def scheduled_rate(self, epoch: int) -> float | None:
        """Learning rate at an epoch, counted from 1; None where the plateau rule decides."""
        if epoch <= self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        if self.rate_schedule == "plateau":
            return None
        done = (epoch - self.warmup_epochs - 1) / max(1, self.max_epochs - self.warmup_epochs - 1)
        wave = 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * wave)

    @property
    def selects_by_stress(self) -> bool:
        """Whether stresses of the validation part influence which epoch is kept."""
        return self.selection == "validation" and self.selection_stress > 0

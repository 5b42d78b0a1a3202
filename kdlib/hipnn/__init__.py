"""HIP-NN models: build, save, load; what a model is made of is in `network` and `potential`.

A saved model is a folder with ``model.safetensors`` and ``config.json``; loading one executes no
code.
"""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from kdlib.errors import InputError
from kdlib.hipnn.network import HipnnConfig
from kdlib.hipnn.network import HipnnModule
from kdlib.hipnn.network import Prediction
from kdlib.hipnn.network import build
from kdlib.hipnn.network import fit_e0
from kdlib.hipnn.network import hippynn_graph
from kdlib.hipnn.network import n_parameters
from kdlib.hipnn.potential import Potential
from kdlib.replacing import replacing
from kdlib.hipnn.validity import Validity

__all__ = [
    "HipnnConfig",
    "HipnnModule",
    "Potential",
    "Prediction",
    "build",
    "complete_state",
    "fit_e0",
    "hippynn_graph",
    "load",
    "n_parameters",
    "save",
]

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def complete_state(module: HipnnModule, tensors: dict[str, Tensor]) -> dict:
    """State dict of the tensors and of what hippynn keeps beside them (``cusp_reg``)."""
    beside = {k: v for k, v in module.state_dict().items() if not isinstance(v, Tensor)}
    return beside | tensors


def save(module: HipnnModule, run_dir: str | Path, settings: dict | None = None) -> None:
    """Write weights (safetensors) and configuration (JSON); each appears whole or not at all.

    Parameters
    ----------
    module
        Model.
    run_dir
        Folder, made if missing.
    settings
        JSON-able record of how the model came about, kept beside the architecture.
    """
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    with replacing(folder / WEIGHTS) as part:
        save_file({k: v.contiguous() for k, v in tensors.items()}, part)
    record = {"hipnn": asdict(module.config), **(settings or {})}
    with replacing(folder / CONFIG) as part:
        part.write_text(json.dumps(record, indent=1) + "\n")


def load(run_dir: str | Path) -> Potential:
    """Potential saved by :func:`save`; nothing in the files is executed.

    Raises
    ------
    InputError
        When a file is missing, truncated, or does not fit the configuration beside it.
    """
    folder = Path(run_dir)
    try:
        record = json.loads((folder / CONFIG).read_text())
        config = HipnnConfig(**record["hipnn"])
        module = build(config)
        module.load_state_dict(complete_state(module, load_file(folder / WEIGHTS)))
        validity = Validity.from_record(record["validity"]) if "validity" in record else None
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such model file") from None
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: not a readable kdlib model ({reason})") from error
    module.henergy.layers[0].weight.requires_grad_(False)
    module.eval()
    return Potential(module, folder, validity)

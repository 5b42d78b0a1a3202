"""Frames of a training in one piece of memory, from which a device cuts its batches.

Joining frames on the host and sending them costs a GPU more than the step itself. Here they are
sent once; a batch is picked by index, with a dozen operations whatever its number of frames.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdlib.hipnn.batches import Batch, collate

_OF_ATOMS = ("numbers", "forces", "atomic_energies")
_OF_FRAMES = ("energy", "stress", "volume", "weight")


class FrameStore:
    """Frames on a device.

    Parameters
    ----------
    frames
        One batch for each frame, on the CPU.
    device
        Where they are kept.
    """

    def __init__(self, frames: Sequence[Batch], device: torch.device) -> None:
        self._all = collate(frames).to(device)
        self.device = device
        self.n_atoms = np.array([frame.n_atoms for frame in frames])
        self.n_pairs = np.array([len(frame.first) for frame in frames])
        self._atoms_before = np.cumsum(self.n_atoms) - self.n_atoms
        self._pairs_before = np.cumsum(self.n_pairs) - self.n_pairs

    def batch(self, chosen: np.ndarray) -> Batch:
        """Chosen frames laid end to end, equal to :func:`kdlib.hipnn.batches.collate` of them."""
        atoms, pairs = np.cumsum(self.n_atoms[chosen]), np.cumsum(self.n_pairs[chosen])
        # How far the atoms and pairs of each frame move from their place in the store.
        move_atoms = self._atoms_before[chosen] - (atoms - self.n_atoms[chosen])
        move_pairs = self._pairs_before[chosen] - (pairs - self.n_pairs[chosen])
        plan = np.stack([chosen, atoms, pairs, move_atoms, move_pairs])
        return self._cut(torch.as_tensor(plan, device=self.device), int(atoms[-1]), int(pairs[-1]))

    def _cut(self, plan: Tensor, n_atoms: int, n_pairs: int) -> Batch:
        chosen, atoms_end, pairs_end, move_atoms, move_pairs = plan.unbind(0)
        whole = self._all
        atoms = torch.arange(n_atoms, device=self.device)
        pairs = torch.arange(n_pairs, device=self.device)
        frame = torch.searchsorted(atoms_end, atoms, right=True)
        of_pair = torch.searchsorted(pairs_end, pairs, right=True)
        atoms = atoms + move_atoms[frame]
        pairs = pairs + move_pairs[of_pair]
        shift = move_atoms[of_pair]
        return Batch(
            frame=frame,
            n_frames=plan.shape[1],
            first=whole.first[pairs] - shift,
            second=whole.second[pairs] - shift,
            vectors=whole.vectors[pairs],
            row=torch.cat((whole.row[atoms] - move_pairs[frame], pairs_end[-1:])),
            **{name: _picked(getattr(whole, name), atoms) for name in _OF_ATOMS},
            **{name: _picked(getattr(whole, name), chosen) for name in _OF_FRAMES},
        )


def _picked(values: Tensor | None, index: Tensor) -> Tensor | None:
    return None if values is None else values[index]

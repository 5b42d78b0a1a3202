"""Frames of a training in one piece of memory, from which a device cuts its batches.

Joining frames on the host and sending them costs a GPU more than the step itself. Here they are
sent once; a batch is picked by index, with a dozen operations whatever its number of frames.

A *padded* batch has room for more atoms and pairs than it holds, so that a captured graph can be
replayed for other frames: what is left of its room belongs to one more frame, whose weight is zero,
whose atoms have no pairs, and whose pairs end at no atom.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kdlib.hipnn.batches import Batch, collate

_OF_ATOMS = ("numbers", "forces", "atomic_energies")
_OF_FRAMES = ("energy", "stress", "volume", "weight")


@dataclass(frozen=True)
class Room:
    """Numbers of atoms and pairs that a padded batch has room for."""

    n_atoms: int
    n_pairs: int


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
        plan = torch.as_tensor(self.plan(chosen), device=self.device)
        room = Room(int(self.n_atoms[chosen].sum()), int(self.n_pairs[chosen].sum()))
        return self._cut(plan, room)

    def plan(self, chosen: np.ndarray, room: Room | None = None) -> np.ndarray:
        """What a device needs to know of a batch, (5, n_frames) int64.

        Rows: the frames; where each one's atoms and pairs end in the batch; how far they move from
        their place in the store. With ``room``, a last column is the frame that fills it up.
        """
        atoms, pairs = np.cumsum(self.n_atoms[chosen]), np.cumsum(self.n_pairs[chosen])
        move_atoms = self._atoms_before[chosen] - (atoms - self.n_atoms[chosen])
        move_pairs = self._pairs_before[chosen] - (pairs - self.n_pairs[chosen])
        plan = np.stack([chosen, atoms, pairs, move_atoms, move_pairs])
        if room is None:
            return plan
        return np.column_stack([plan, [chosen[0], room.n_atoms, room.n_pairs, 0, 0]])

    def padded(self, plan: Tensor, room: Room) -> Batch:
        """Batch of a plan that has a frame to fill it up; asks the device nothing."""
        batch = self._cut(plan, room)
        last = batch.n_frames - 1
        padding = batch.frame == last
        pairs = torch.arange(room.n_pairs, device=self.device) >= plan[2, last - 1]
        row = torch.where(padding, plan[2, last - 1], batch.row[:-1])
        real = torch.arange(batch.n_frames, device=self.device) < last
        weight = real.to(batch.vectors.dtype)
        if batch.weight is not None:
            weight = weight * batch.weight
        return replace(
            batch,
            first=batch.first.masked_fill(pairs, room.n_atoms - 1),
            second=batch.second.masked_fill(pairs, room.n_atoms),
            row=torch.cat((row, plan[2, last - 1 : last])),
            weight=weight,
        )

    def _cut(self, plan: Tensor, room: Room) -> Batch:
        chosen, atoms_end, pairs_end, move_atoms, move_pairs = plan.unbind(0)
        whole = self._all
        atoms = torch.arange(room.n_atoms, device=self.device)
        pairs = torch.arange(room.n_pairs, device=self.device)
        frame = torch.searchsorted(atoms_end, atoms, right=True)
        of_pair = torch.searchsorted(pairs_end, pairs, right=True)
        atoms = (atoms + move_atoms[frame]).clamp(max=len(whole.numbers) - 1)
        pairs = (pairs + move_pairs[of_pair]).clamp(max=len(whole.first) - 1)
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

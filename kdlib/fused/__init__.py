from kdlib.fused.autograd import pair_forces
from kdlib.fused.forcefield import ForceField
from kdlib.fused.layer import accelerate, restore, supports
from kdlib.fused.verlet import VerletList

__all__ = ["ForceField", "VerletList", "accelerate", "pair_forces", "restore", "supports"]

from kdlib.fused.layer import accelerate, restore, supports

__all__ = ["accelerate", "restore", "supports"]

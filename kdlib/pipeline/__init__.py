"""Runs notebooks in order with the parameters of a profile, and skips what is up to date."""

from kdlib.pipeline.runner import StepFailed, execute, notebooks_folder, run

__all__ = ["StepFailed", "execute", "notebooks_folder", "run"]

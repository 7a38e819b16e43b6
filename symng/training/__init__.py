"""Compiling a step, and the outer loop over batches."""

from symng.training.info import StepInfo
from symng.training.loop import TrainingResult, minimize
from symng.training.step import CompiledStep, compile_step

__all__ = ["CompiledStep", "StepInfo", "TrainingResult", "compile_step", "minimize"]

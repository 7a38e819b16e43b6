"""Compiling a step, and the outer loop over batches."""

from symng.training.info import StepInfo
from symng.training.loop import minimize
from symng.training.result import TrainingResult
from symng.training.step import CompiledStep, compile_step

__all__ = ["CompiledStep", "StepInfo", "TrainingResult", "compile_step", "minimize"]

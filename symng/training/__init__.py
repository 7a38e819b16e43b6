"""Compiling a step, and the outer loop over batches."""

from symng.training.checkpoint import load_checkpoint, save_checkpoint
from symng.training.compiling import compile_step
from symng.training.early_stopping import EarlyStopping
from symng.training.history import History
from symng.training.info import StepInfo
from symng.training.interrupt import DeferredInterrupt
from symng.training.loop import minimize
from symng.training.result import TrainingResult
from symng.training.step import CompiledStep

__all__ = [
    "CompiledStep",
    "DeferredInterrupt",
    "EarlyStopping",
    "History",
    "StepInfo",
    "TrainingResult",
    "compile_step",
    "load_checkpoint",
    "minimize",
    "save_checkpoint",
]

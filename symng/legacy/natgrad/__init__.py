"""The interface of ``natgrad``, the code of the paper's first author, on today's solvers."""

from symng.legacy.natgrad.data import DataMNIST
from symng.legacy.natgrad.faces import DataTFD_48
from symng.legacy.natgrad.layers import (
    HiddenLayerLW,
    HiddenLayerStandard,
    LeNetConvPoolLayerLW,
    LeNetConvPoolLayerStandard,
    SoftmaxLayerStandard,
)
from symng.legacy.natgrad.main_loop import MainLoop
from symng.legacy.natgrad.models import convMat, mlp
from symng.legacy.natgrad.natural import natSGD
from symng.legacy.natgrad.plain import SGD
from symng.legacy.natgrad.state import state_convMNIST, state_mlpMNIST, state_TFD
from symng.legacy.natgrad.utils import (
    const,
    lcn,
    print_mem,
    print_time,
    safe_clone,
    softmax,
)

__all__ = [
    "DataMNIST",
    "DataTFD_48",
    "HiddenLayerLW",
    "HiddenLayerStandard",
    "LeNetConvPoolLayerLW",
    "LeNetConvPoolLayerStandard",
    "MainLoop",
    "SGD",
    "SoftmaxLayerStandard",
    "const",
    "convMat",
    "lcn",
    "mlp",
    "natSGD",
    "print_mem",
    "print_time",
    "safe_clone",
    "softmax",
    "state_TFD",
    "state_convMNIST",
    "state_mlpMNIST",
]

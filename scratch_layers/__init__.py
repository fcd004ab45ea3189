"""Layers written by hand: a stand-in for the parts of torch.nn that are named here.

    import scratch_layers as nn                 # instead of: from torch import nn
    model = nn.resnet.resnet18(nn)              # or any model that takes its layers from nn
    nn.compile_kernels()                        # optional: compiled forward and backward

Each layer is an instance of the torch class of its name, has its parameters, buffers and errors,
and loads its state_dict. The mathematics is in the docstrings of the modules.
"""

from scratch_layers import functional, resnet
from scratch_layers.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from scratch_layers.dropout import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    FeatureAlphaDropout,
)
from scratch_layers.kernels import compile_kernels

__all__ = [
    "AlphaDropout",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "compile_kernels",
    "functional",
    "resnet",
]

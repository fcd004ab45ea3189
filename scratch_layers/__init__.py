"""Layers written by hand: a stand-in for the parts of torch.nn that are named here.

    import scratch_layers as nn                 # instead of: from torch import nn
    import scratch_layers.functional as F       # instead of: import torch.nn.functional as F
    model = nn.resnet.resnet18(nn)              # or any model that takes its layers from nn
    print(nn.convert(model))                    # or any model that exists already, in place
    nn.compile_kernels()                        # optional: compiled forward and backward

Each layer is an instance of the torch class of its name, has its parameters, buffers and errors,
and loads its state_dict. The mathematics is in the docstrings of the modules.
"""

from scratch_layers import airnet, functional, init, mlp, preresnet, residual, resnet, variational
from scratch_layers.activation import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    RReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from scratch_layers.batchnorm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from scratch_layers.convert import (
    Conversion,
    convert,
)
from scratch_layers.cross_entropy import (
    CrossEntropyLoss,
    FocalLoss,
    NLLLoss,
    NLLLoss2d,
    SigmoidFocalLoss,
)
from scratch_layers.ctc import (
    CTCLoss,
)
from scratch_layers.dropout import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    FeatureAlphaDropout,
    linear_decay,
)
from scratch_layers.fusedbatchnorm import (
    BatchNormReLU1d,
    BatchNormReLU2d,
    BatchNormReLU3d,
)
from scratch_layers.gradients import (
    GradientReport,
    check_gradients,
)
from scratch_layers.imbalance import (
    class_weights,
)
from scratch_layers.instancenorm import (
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LazyInstanceNorm1d,
    LazyInstanceNorm2d,
    LazyInstanceNorm3d,
)
from scratch_layers.kernels import (
    compile_kernels,
)
from scratch_layers.linear_cross_entropy import (
    LinearCrossEntropyLoss,
    LinearCrossEntropyOptions,
)
from scratch_layers.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    GaussianNLLLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    PoissonNLLLoss,
    SmoothL1Loss,
)
from scratch_layers.margin_loss import (
    CosineEmbeddingLoss,
    HingeEmbeddingLoss,
    MarginRankingLoss,
    MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    SoftMarginLoss,
    TripletMarginLoss,
    TripletMarginWithDistanceLoss,
)
from scratch_layers.normalization import (
    CrossMapLRN2d,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
)
from scratch_layers.regularization import (
    decay_groups,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    max_norm_,
)
from scratch_layers.softmax import (
    LogSoftmax,
    Softmax,
    Softmax2d,
    Softmin,
)
from scratch_layers.syncbatchnorm import (
    SyncBatchNorm,
)
from scratch_layers.variational import (
    GaussianDropout,
    VariationalDropoutConv2d,
    VariationalDropoutLinear,
    kl_divergence,
    mc_dropout,
    monte_carlo,
    sparsity,
)

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "AlphaDropout",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormReLU1d",
    "BatchNormReLU2d",
    "BatchNormReLU3d",
    "CTCLoss",
    "Conversion",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "CrossMapLRN2d",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "FocalLoss",
    "GaussianDropout",
    "GaussianNLLLoss",
    "GradientReport",
    "GroupNorm",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "KLDivLoss",
    "L1Loss",
    "LayerNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "LeakyReLU",
    "LinearCrossEntropyLoss",
    "LinearCrossEntropyOptions",
    "LocalResponseNorm",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "MarginRankingLoss",
    "Mish",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "PReLU",
    "PoissonNLLLoss",
    "RMSNorm",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "SyncBatchNorm",
    "Tanh",
    "Tanhshrink",
    "Threshold",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "VariationalDropoutConv2d",
    "VariationalDropoutLinear",
    "airnet",
    "check_gradients",
    "class_weights",
    "compile_kernels",
    "convert",
    "decay_groups",
    "elastic_net_penalty",
    "functional",
    "init",
    "kl_divergence",
    "l1_penalty",
    "l2_penalty",
    "linear_decay",
    "max_norm_",
    "mc_dropout",
    "mlp",
    "monte_carlo",
    "preresnet",
    "residual",
    "resnet",
    "sparsity",
    "variational",
]

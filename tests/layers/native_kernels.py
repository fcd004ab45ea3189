"""A mode in which operators that compute layers natively fail."""

from torch.utils._python_dispatch import TorchDispatchMode

# Names of the operators (aten::...) that compute such layers natively; "_backward" follows many.
NATIVE = {
    *("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit"),
    *("batch_norm_stats", "batch_norm_elemt", "batch_norm_gather_stats_with_counts"),
    *("_batch_norm_with_update", "native_layer_norm", "native_group_norm", "_fused_rms_norm"),
    *("native_dropout", "avg_pool2d", "avg_pool3d", "renorm"),
    *("relu", "threshold", "hardtanh", "leaky_relu", "_prelu_kernel", "rrelu_with_noise"),
    *("rrelu_with_noise_functional", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus"),
    *("sigmoid", "tanh", "hardswish", "hardsigmoid", "glu", "log_sigmoid_forward"),
    *("log_sigmoid", "softshrink", "hardshrink", "_softmax", "_log_softmax", "_safe_softmax"),
    *("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss2d", "mse_loss"),
    *("smooth_l1_loss", "huber_loss", "binary_cross_entropy", "soft_margin_loss"),
    *("binary_cross_entropy_with_logits", "multi_margin_loss", "multilabel_margin_loss_forward"),
    *("multilabel_margin_loss", "_ctc_loss", "_cdist_forward", "kl_div", "cross_entropy_loss"),
}


def native(name):
    name = name.removesuffix("_").removesuffix("_backward").removesuffix("_backward_data")
    return name in NATIVE or name.removesuffix("_double_backward") in NATIVE


class NoNativeKernel(TorchDispatchMode):
    """Fails on every operator that computes such a layer natively."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        assert not native(func._schema.name.split("::")[1]), f"native kernel {func}"
        return func(*args, **(kwargs or {}))

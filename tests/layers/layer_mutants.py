"""Mistakes that the conformance kit must find: each one replaced text in a file of scratch_layers.

``alone`` says that the kit finds it without a reference too, by the contract and closed forms.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    layer: str
    file: str
    old: str
    new: str
    wrong: str
    alone: bool = True

    def __str__(self) -> str:
        return f"{self.layer}: {self.wrong}"


def of(layer: str, file: str) -> Callable[..., Mutant]:
    """Mutants of a layer whose text is in a file."""

    def mutant(wrong: str, old: str, new: str, alone: bool = True) -> Mutant:
        return Mutant(layer, file, old, new, wrong, alone)

    return mutant


bn = of("BatchNorm2d", "batchnorm.py")
bn1 = of("BatchNorm1d", "batchnorm.py")
drop = of("Dropout", "dropout.py")
drop2 = of("Dropout2d", "dropout.py")
alpha = of("AlphaDropout", "dropout.py")
ce = of("CrossEntropyLoss", "cross_entropy.py")
mean = of("CrossEntropyLoss", "criterion.py")
norm = of("LayerNorm", "normalization.py")
rms = of("RMSNorm", "normalization.py")
group = of("GroupNorm", "normalization.py")

MUTANTS = [
    # --- batch normalization, forward
    bn("eps outside the root", "s = (var + eps).rsqrt()", "s = 1 / (var.sqrt() + eps)"),
    bn("eps left out", "s = (var + eps).rsqrt()", "s = var.rsqrt()"),
    bn(
        "normalizes with the unbiased variance",
        "s = (var + eps).rsqrt()",
        "s = (var * (m / max(m - 1, 1)) + eps).rsqrt()",
    ),
    bn(
        "running variance is biased",
        "unbiased = (var * (m / max(m - 1, 1))).to(x.dtype)",
        "unbiased = var.to(x.dtype)",
    ),
    bn("beta has the wrong sign", "y = y + along(x, beta)", "y = y - along(x, beta)"),
    bn("the mean is not subtracted", "y = (x - along(x, mu)) *", "y = x *"),
    bn(
        "variance as E[x²] - E[x]² in float32",
        "    L = prod(X.shape[2:])\n    wide = sum_dtype(X)\n",
        "    dims = [d for d in range(X.dim()) if d != 1]\n    m_ = X.mean(dims)\n"
        "    return m_, (X * X).mean(dims) - m_ * m_\n"
        "    L = prod(X.shape[2:])\n    wide = sum_dtype(X)\n",
    ),
    bn(
        "the mean of each sample instead of the batch",
        "    L = prod(X.shape[2:])\n    wide = sum_dtype(X)\n",
        "    X = X[:1]\n    L = prod(X.shape[2:])\n    wide = sum_dtype(X)\n",
    ),
    # --- its backward
    bn("gradient of the variance dropped", "+ (x - along(x, mu)) * along(x, d_var * 2 / m) ", ""),
    bn("gradient of the mean dropped", " + along(x, d_mu / m)\n", "\n"),
    bn("factor 2 of the variance lost", "d_var * 2 / m", "d_var / m"),
    bn(
        "gain left out of the gradient",
        "gamma_s = s if gamma is None else gamma * s",
        "gamma_s = s",
    ),
    bn(
        "gradient of gamma of the input, not of the normalized one",
        "d_gamma = channel_sum(d_y * (x - along(x, mu))) * s",
        "d_gamma = channel_sum(d_y * x) * s",
    ),
    bn(
        "gradient of gamma not divided by the deviation",
        "d_gamma = channel_sum(d_y * (x - along(x, mu))) * s",
        "d_gamma = channel_sum(d_y * (x - along(x, mu)))",
    ),
    bn(
        "gradient of beta is a mean",
        "d_beta = channel_sum(d_y)",
        "d_beta = channel_sum(d_y) / values(X)",
    ),
    bn(
        "the batch's backward in evaluation",
        "values(X)) if of_batch else ()",
        "values(X))",
    ),
    bn("its tangent forgets the mean", "return channel_sum(t_x) / m, -s", "return 0 * s, -s"),
    bn(
        "the upstream gradient is changed in place",
        "    d_beta = channel_sum(d_y)\n",
        "    d_beta = channel_sum(d_y)\n    d_y.detach().mul_(0.5)\n",
    ),
    # --- its state
    bn(
        "momentum reversed",
        "running.lerp_(new, momentum)",
        "running.lerp_(new, 1 - momentum)",
    ),
    bn(
        "running statistics updated in evaluation",
        "y, _ = node(X, weight, bias, running_mean, running_var, eps)",
        "y, _ = node(X, weight, bias, running_mean, running_var, eps)\n"
        "        track(running_mean, statistics(X.detach())[0], momentum)",
    ),
    bn(
        "statistics of the batch in evaluation",
        "of_batch = self.training or (mean is None and var is None)",
        "of_batch = True",
    ),
    bn("the batch is counted twice", "            count.add_(1)\n", "            count.add_(2)\n"),
    bn(
        "the counter does not count",
        "            count.add_(1)\n",
        "            count.add_(0)\n",
    ),
    bn(
        "cumulative average weighs from 1/(n + 2)",
        "momentum = (count + 1).to",
        "momentum = (count + 2).to",
    ),
    bn(
        "running variance is not saved",
        'self.register_buffer("running_var", vector() if track_running_stats else None)',
        'self.register_buffer("running_var", vector() if track_running_stats else None, '
        "persistent=False)",
    ),
    bn("running variance starts at 0", "(self.running_var, 1),", "(self.running_var, 0),"),
    bn(
        "all layers share their running mean",
        'self.register_buffer("running_mean", vector() if track_running_stats else None)',
        "global SHARED\n        SHARED = globals().get('SHARED', vector())\n        "
        'self.register_buffer("running_mean", SHARED if track_running_stats else None)',
    ),
    bn(
        "counts a batch that it refuses",
        "        self._check_input_dim(input)\n        mean, var, count =",
        "        self.num_batches_tracked.add_(input.dim() != 4)\n"
        "        self._check_input_dim(input)\n        mean, var, count =",
    ),
    bn(
        "one value per channel is accepted",
        "if training and input.shape[0] * prod(input.shape[2:]) == 1:",
        "if False:",
        alone=False,
    ),
    bn("eps is 1e-3 whatever is said", "        self.eps = eps\n", "        self.eps = 1e-3\n"),
    bn(
        "dtype of the constructor ignored",
        "return torch.empty(num_features, device=device, dtype=dtype)",
        "return torch.empty(num_features, device=device)",
    ),
    bn1(
        "mean of the samples' first values",
        "K_n = X.sum(within_sample, keepdim=True) * (1 / max(L, 1))",
        "X, L = X[:, :, :1], 1\n    K_n = X.sum(within_sample, keepdim=True)",
    ),
    # --- dropout
    drop(
        "kept values are not rescaled",
        "return (x.new_ones(()).div_(1 - p),)",
        "return (x.new_ones(()),)",
    ),
    drop(
        "rescaled by 1/p",
        "return (x.new_ones(()).div_(1 - p),)",
        "return (x.new_ones(()).div_(p),)",
    ),
    drop("keeps with probability p", "k.bernoulli_(1 - p)", "k.bernoulli_(p)"),
    drop("drops in evaluation", "if not training or p == 0 or", "if p == 0 or"),
    drop(
        "scales in evaluation",
        "    if not training or p == 0 or x.numel() == 0:\n        return x\n",
        "    if not training:\n        return x * (1 - p)\n"
        "    if p == 0 or x.numel() == 0:\n        return x\n",
    ),
    drop(
        "the mask is left out of the backward",
        "return run(masked, d_y, *ctx.saved_tensors), None",
        "return d_y * ctx.saved_tensors[1], None",
    ),
    drop(
        "the backward is not rescaled",
        "return run(masked, d_y, *ctx.saved_tensors), None",
        "return d_y * ctx.saved_tensors[0], None",
    ),
    drop(
        "one mask for all samples",
        "k = like if shape is None else x.new_empty(shape, dtype=torch.uint8)",
        "k = (x.new_empty((1, *x.shape[1:]), dtype=torch.uint8) if shape is None "
        "else x.new_empty(shape, dtype=torch.uint8))",
    ),
    drop(
        "the input is overwritten",
        "return x.copy_(y) if inplace else y",
        "return x.detach().copy_(y) * 0 + y",
    ),
    drop(
        "a mask of float32, four times as large",
        "like = torch.empty_like(x, dtype=torch.uint8)",
        "like = torch.empty_like(x, dtype=torch.float64)",
    ),
    drop(
        "always the same mask",
        "        k.bernoulli_(1 - p)\n",
        "        k.bernoulli_(1 - p, generator=torch.Generator().manual_seed(0))\n",
    ),
    drop2(
        "single values instead of channels",
        "    return drop(input, p, training, inplace, each_channel(input))\n\n\ndef dropout3d(",
        "    return drop(input, p, training, inplace)\n\n\ndef dropout3d(",
    ),
    drop2(
        "a channel in all samples at once",
        "return tuple(input.shape[:leading]) + (1,) * (input.dim() - leading)",
        "return (1, input.shape[1]) + (1,) * (input.dim() - 2)",
    ),
    alpha("drops to 0", "c_1, c_0 = (x.new_full((), k)", "c_1, c_0 = (x.new_full((), 1)"),
    alpha(
        "the variance is not kept",
        "a = 1 / math.sqrt((alpha * alpha * p + 1) * (1 - p))",
        "a = 1 / math.sqrt(1 - p)",
    ),
    # --- cross entropy
    ce(
        "label smoothing over C - 1 classes",
        "share = torch.where(y == ignored, 0, epsilon / x.shape[1] * all_of_them.sum(1))",
        "share = torch.where(y == ignored, 0, epsilon / (x.shape[1] - 1) * all_of_them.sum(1))",
    ),
    ce(
        "smoothing left out of the gradient",
        "        return (1 - epsilon) * slope + share\n",
        "        return slope\n",
    ),
    ce(
        "smoothed rows that are ignored count",
        "share = torch.where(y == ignored, 0, epsilon / x.shape[1] * all_of_them.sum(1))",
        "share = epsilon / x.shape[1] * all_of_them.sum(1)",
    ),
    ce(
        "ignored rows have a gradient",
        "share = torch.where((y == ignored).unsqueeze(1), 0, epsilon / x.shape[1] * share)",
        "share = epsilon / x.shape[1] * share",
    ),
    ce(
        "weights are not in the denominator",
        "return weights_of(y, w, ignored, x.dtype)[1].sum()\n\n\nclass OfLikelihood",
        "return (y != ignored).sum()\n\n\nclass OfLikelihood",
    ),
    ce(
        "ignored rows count in the mean",
        "return weights_of(y, w, ignored, x.dtype)[1].sum()\n\n\nclass OfLikelihood",
        "return y.numel()\n\n\nclass OfLikelihood",
    ),
    ce(
        "the one is not subtracted in the gradient",
        "torch.where(is_class(index, x.shape[1]), p - 1, p)",
        "p",
    ),
    ce(
        "the largest logit is not subtracted",
        "    a = x - x.amax(1, keepdim=True)\n    e =",
        "    a = x - x.amax()\n    e =",
    ),
    ce(
        "softmax over the wrong dimension",
        "return e / e.sum(1, keepdim=True)",
        "return e / e.sum(-1, keepdim=True)",
    ),
    ce(
        "weights of smoothed classes are forgotten",
        "all_of_them = log_S - a if w is None else along(x, w) * (log_S - a)",
        "all_of_them = log_S - a",
    ),
    ce(
        "ignore_index is fixed to -100",
        "        self.ignore_index = ignore_index\n        self.label_smoothing = label_smoothing",
        "        self.ignore_index = -100\n        self.label_smoothing = label_smoothing",
    ),
    ce(
        "a target out of range is accepted",
        "if low.item() < 0 or high.item() >= shape[1]:",
        "if False:",
        alone=False,
    ),
    ce("distribution is not smoothed", "c = (1 - epsilon) * q + epsilon / q.shape[1]", "c = q"),
    ce(
        "gradient by a distribution forgets the smoothing",
        "slope = (1 - epsilon) * (log_S - a)\n        return slope",
        "slope = log_S - a\n        return slope",
    ),
    mean(
        "the gradient of the mean is that of the sum",
        '    if reduction != "mean":\n        return d_y\n',
        "    return d_y\n",
    ),
    mean(
        "sum and mean exchanged",
        'y if reduction == "sum" else y / total',
        'y if reduction == "mean" else y / total',
    ),
    # --- layer, RMS and group normalization, activations
    norm(
        "mean of the gradient is not subtracted",
        "        d_x = d_x - spread(by_mu, layout, kept)\n",
        "        pass\n",
    ),
    norm(
        "gradient along the output is not removed",
        "d_x = D * spread(-mean_gx * s * s, layout, kept) + d_y",
        "d_x = d_y",
    ),
    norm(
        "eps outside the root",
        "    s = (var + eps).rsqrt()\n    slope",
        "    s = 1 / (var.sqrt() + eps)\n    slope",
    ),
    rms(
        "subtracts the mean",
        "return NormalizationFunction.call(input, weight, None, layout, eps, False)[0]",
        "return NormalizationFunction.call(input, weight, None, layout, eps, True)[0]",
    ),
    rms(
        "eps of None is 1e-6",
        "eps = torch.finfo(accumulate_dtype(input)).eps if eps is None else eps",
        "eps = 1e-6 if eps is None else eps",
    ),
    group(
        "divides by the number of channels only",
        "/ max(v.shape[2] * v.shape[3], 1)",
        "/ max(v.shape[2], 1)",
    ),
    Mutant(
        "GELU",
        "activation.py",
        "        return Phi + x * phi\n",
        "        return Phi\n",
        "density dropped from the slope",
    ),
    Mutant(
        "SiLU",
        "activation.py",
        "        return e * one_minus_sigma * (1 + z * one_minus_sigma)\n",
        "        return e * one_minus_sigma\n",
        "slope is that of the sigmoid",
    ),
    Mutant(
        "LeakyReLU",
        "activation.py",
        "        return p + a * (1 - p)\n",
        "        return p + a\n",
        "slope adds both sides",
    ),
    Mutant(
        "Tanh",
        "activation.py",
        "        return 1 - y * y\n",
        "        return 1 - y\n",
        "slope is not squared",
    ),
]

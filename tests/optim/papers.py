"""Optimizers that torch lacks, as equations: written from the papers and not from the code.

Each is one step of one parameter, ``f(theta, g, state, t, **options) -> theta``, as
``scratch_optim.testing`` takes a reference.
"""

from __future__ import annotations

import torch


def norm(x):
    return x.square().sum().sqrt()


def _excluded(theta, exclude):
    return theta.dim() <= 1 if exclude is None else exclude


def _gradient(g, maximize):
    return -g if maximize else g


def lars(theta, g, state, t, *, lr, momentum, weight_decay, nesterov, eps, trust_coefficient,
         exclude, clip, maximize, **_):  # fmt: skip
    g = _gradient(g, maximize)
    if _excluded(theta, exclude):
        step = lr * g
    else:
        local = 1.0
        if norm(theta) > 0 and norm(g) > 0:
            local = norm(theta) / (norm(g) + weight_decay * norm(theta) + eps)
            local = trust_coefficient * local
            if clip:
                local = min(local / lr, 1.0)
        step = lr * local * (g + weight_decay * theta)
    v = state["v"] = momentum * state.get("v", torch.zeros_like(theta)) + step
    return theta - (momentum * v + step if nesterov else v)


def lamb(theta, g, state, t, *, lr, betas, eps, weight_decay, phi, exclude, bias_correction,
         maximize, **_):  # fmt: skip
    (beta1, beta2), (low, high) = betas, phi
    g = _gradient(g, maximize)
    m = state["m"] = beta1 * state.get("m", torch.zeros_like(theta)) + (1 - beta1) * g
    v = state["v"] = beta2 * state.get("v", torch.zeros_like(theta)) + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t) if bias_correction else m
    v_hat = v / (1 - beta2**t) if bias_correction else v
    r = m_hat / (v_hat.sqrt() + eps)
    ratio = 1.0
    if not _excluded(theta, exclude):
        r = r + weight_decay * theta
        if norm(theta) > 0 and norm(r) > 0:
            ratio = norm(theta).clamp(low, high) / norm(r)
    return theta - lr * ratio * r


def lion(theta, g, state, t, *, lr, betas, weight_decay, maximize, **_):
    beta1, beta2 = betas
    g, m = _gradient(g, maximize), state.get("m", torch.zeros_like(theta))
    c = beta1 * m + (1 - beta1) * g
    state["m"] = beta2 * m + (1 - beta2) * g
    return theta - lr * (c.sign() + weight_decay * theta)


def momentum(theta, g, state, t, *, lr, momentum, weight_decay, nesterov, maximize, **_):
    g = _gradient(g, maximize) + weight_decay * theta
    v = state["v"] = momentum * state.get("v", torch.zeros_like(theta)) + lr * g
    return theta - (momentum * v + lr * g if nesterov else v)


def rmsprop_with_eps_inside(theta, g, state, t, *, lr, alpha, eps, weight_decay, momentum,
                            centered, maximize, **_):  # fmt: skip
    v, a, b = (state.get(name, torch.zeros_like(theta)) for name in "vab")
    g = _gradient(g, maximize) + weight_decay * theta
    v = alpha * v + (1 - alpha) * g**2
    a = alpha * a + (1 - alpha) * g
    b = momentum * b + g / (v - (a**2 if centered else 0) + eps).sqrt()
    state.update(v=v, a=a, b=b)
    return theta - lr * b

"""Writes ops.safetensors: each differentiable op with its inputs, output, a random upstream gradient, and gradients.

Tensors are <case>.<what>, in NCHW and OIHW: y the output, dy its upstream gradient, d<input> the gradients; scalars
have shape (1). The metadata lists the "cases"; <case>.op names the op; convolutions add .kernel, .stride, .padding.
Inputs are float32 numbers, stored as F32; results are computed in float64 and stored as F64. Inputs of each op:

    conv2d            x w [b]
    conv_avg_pool     x w               3x3 convolution, then avg_pool2
    linear            x w [b]           y = x w^T + b
    batch_norm        x weight bias     batch statistics; running_mean, running_var before the pass, after_running_mean,
                                        after_running_var after it
    batch_norm_relu   x weight bias     likewise, then relu
    batch_norm_relu_conv2d
                      x weight bias w b r   3x3 convolution of up(batch_norm_relu(x)), plus b and up(r); up is upsample2
                                        where .upsample is 1, else nothing
    batch_norm_inference_relu
                      x weight bias running_mean running_var   with the given statistics; only x has a gradient
    relu, leaky_relu, tanh, swish, exp, scale, sum, mean, avg_pool2, global_avg_pool, upsample2
                      x                 slope 0.2; factor -1.75; global_avg_pool to (B,C); upsample2 bilinear,
                                        align_corners
    add, multiply     x r
    sum_squared_error, squared_error
                      x r               sum (x - r)^2, and that divided by B
    gaussian_nll      z mu logvar       Eq. 15, mean over the batch
    reparametrise     mu logvar eps     mu + exp(logvar / 2) eps; eps has no gradient
    spectral_norm     w u0 v0           y<p> = w / sigma<p>, u<p>, v<p>, dy<p>, dw<p> after p passes, for some p; the last
                                        is .count
"""
import itertools
import os

import numpy as np
import torch
import torch.nn.functional as F

import safetensors_io
from dual_mcmc import gaussian_nll, reparametrize, squared_error
from models import upsample

B, C, H, W = 2, 5, 7, 6
tensors, metadata = {}, {"format": "dual-mcmc-ops-1", "cases": ""}
worst = {}


def random(*shape):
    return torch.randn(shape)  # float32, so that the file holds exactly the inputs used


def store(case, name, value):
    """float32 inputs as F32, float64 results as F64."""
    tensors[f"{case}.{name}"] = value.detach().numpy().reshape(tuple(value.shape) or (1,))


def begin(case, op, **attributes):
    metadata["cases"] = f"{metadata['cases']} {case}".strip()
    metadata.update({f"{case}.op": op, **{f"{case}.{key}": value for key, value in attributes.items()}})


def add(case, op, function, inputs, constants=(), **attributes):
    """Runs function(**inputs) forward and backward in both precisions, and stores the float64 results."""
    begin(case, op, **attributes)
    dy = None
    for dtype in (torch.float32, torch.float64):
        leaves = {name: value.to(dtype, copy=True).requires_grad_(name not in constants)
                  for name, value in inputs.items()}
        y = function(**leaves)
        dy = random(*y.shape) if dy is None else dy
        y.backward(dy.to(dtype))
        result = {"y": y.detach(), **{f"d{name}": leaf.grad for name, leaf in leaves.items() if leaf.requires_grad}}
        if dtype == torch.float32:
            single = result
    for name, value in {**inputs, "dy": dy, **result}.items():
        store(case, name, value)
    note(case, single, result)


def note(case, single, double):
    worst[case] = max(((single[name] - value).norm() / value.norm()).item() for name, value in double.items())


def add_convolutions():
    for kernel, stride, padding, bias in itertools.product((1, 3, 4), (1, 2), (0, 1), (False, True)):
        inputs = {"x": random(B, C, H, W), "w": random(9, C, kernel, kernel), **({"b": random(9)} if bias else {})}
        add(f"conv2d_k{kernel}_s{stride}_p{padding}" + "_bias" * bias, "conv2d",
            lambda x, w, b=None: F.conv2d(x, w, b, stride, padding), inputs,
            kernel=kernel, stride=stride, padding=padding)
    add("conv2d_k3_s1_p1_bias_large", "conv2d", lambda x, w, b: F.conv2d(x, w, b, 1, 1),
        {"x": random(2, 35, 7, 6), "w": random(38, 35, 3, 3), "b": random(38)}, kernel=3, stride=1, padding=1)
    add("conv2d_k4_s2_p1_large", "conv2d", lambda x, w: F.conv2d(x, w, None, 2, 1),
        {"x": random(3, 19, 12, 10), "w": random(38, 19, 4, 4)}, kernel=4, stride=2, padding=1)
    for name, channels_in, channels_out, side in [("conv_avg_pool", C, 9, (8, 6)),
                                                  ("conv_avg_pool_large", 18, 34, (12, 10))]:
        inputs = {"x": random(B, channels_in, *side), "w": random(channels_out, channels_in, 3, 3)}
        add(name, "conv_avg_pool", lambda x, w: F.avg_pool2d(F.conv2d(x, w, None, 1, 1), 2), inputs,
            kernel=3, stride=1, padding=1)


def away_from_kink(y):
    """Asserts that rounding to float32 takes no element to the other side of ReLU's kink."""
    assert y.abs().min() > 1e-4, "an element is at the kink; take another seed"
    return F.relu(y)


def add_batch_norm(case, op, shape, after_norm=lambda y: y, more={}, **attributes):
    """Batch norm, then after_norm(y, **more)."""
    channels = shape[1]
    running = {"running_mean": random(channels), "running_var": random(channels).abs() + 0.5}
    after = {}

    def batch_norm(x, weight, bias, **rest):
        mean, var = (value.to(x.dtype) for value in running.values())
        y = F.batch_norm(x, mean, var, weight, bias, training=True, momentum=0.1, eps=1e-5)
        after.update({"after_running_mean": mean, "after_running_var": var})
        return after_norm(y, **rest)

    # The mean is far from zero: computing the variance as a difference of large values would show.
    inputs = {"x": random(*shape) * 2 + 3, "weight": random(channels), "bias": random(channels), **more}
    add(case, op, batch_norm, inputs, **attributes)
    for name, value in {**running, **after}.items():
        store(case, name, value)


def add_batch_norm_conv(case, upsampled):
    up = upsample if upsampled else lambda y: y
    more = {"w": random(9, C, 3, 3), "b": random(9), "r": random(B, 9, 4, 3)}
    add_batch_norm(case, "batch_norm_relu_conv2d", (B, C, 4, 3),
                   lambda y, w, b, r: F.conv2d(up(away_from_kink(y)), w, b, 1, 1) + up(r), more,
                   upsample=int(upsampled))


def add_spectral_norm(case, shape, passes=(1, 2, 3)):
    """Uses PyTorch's own spectral_norm, and with it the order and the eps of its power iteration."""
    begin(case, "spectral_norm", count=passes[-1])
    normalize = lambda value: value / value.norm()
    w, u0, v0 = random(*shape), normalize(random(shape[0])), normalize(random(int(np.prod(shape[1:]))))
    upstream = {p: random(*shape) for p in passes}
    for dtype in (torch.float32, torch.float64):
        holder = torch.nn.Module()
        holder.weight = torch.nn.Parameter(w.to(dtype))
        holder = torch.nn.utils.spectral_norm(holder)
        holder.weight_u.copy_(u0)
        holder.weight_v.copy_(v0)
        (hook,) = holder._forward_pre_hooks.values()
        result = {}
        for p in range(1, passes[-1] + 1):
            hook(holder, ())  # one power iteration, then weight = weight_orig / sigma
            if p not in passes:
                continue
            y, u, v = holder.weight, holder.weight_u.clone(), holder.weight_v.clone()
            (dw,) = torch.autograd.grad(y, holder.weight_orig, upstream[p].to(dtype))
            result.update({f"y{p}": y.detach(), f"u{p}": u, f"v{p}": v, f"dw{p}": dw,
                           f"sigma{p}": (u @ holder.weight_orig.detach().flatten(1) @ v).reshape(1)})
        if dtype == torch.float32:
            single = result
    upstream = {f"dy{p}": dy for p, dy in upstream.items()}
    for name, value in {"w": w, "u0": u0, "v0": v0, **upstream, **result}.items():
        store(case, name, value)
    note(case, single, result)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    image = lambda: random(B, C, H, W)
    away = lambda: (lambda x: x + 0.1 * x.sign())(image())  # from the kink at 0, which has no derivative
    add_convolutions()
    add("linear", "linear", lambda x, w: F.linear(x, w), {"x": random(3, 11), "w": random(7, 11)})
    add("linear_bias", "linear", lambda x, w, b: F.linear(x, w, b),
        {"x": random(3, 11), "w": random(7, 11), "b": random(7)})
    add("linear_one_output", "linear", lambda x, w: F.linear(x, w), {"x": random(3, 11), "w": random(1, 11)})
    add("linear_bias_large", "linear", lambda x, w, b: F.linear(x, w, b),
        {"x": random(13, 37), "w": random(75, 37), "b": random(75)})
    add_batch_norm("batch_norm", "batch_norm", (B, C, H, W))
    add_batch_norm("batch_norm_large", "batch_norm", (3, 37, 6, 5))
    add_batch_norm("batch_norm_relu", "batch_norm_relu", (B, C, H, W), away_from_kink)
    add_batch_norm_conv("batch_norm_relu_conv2d", False)
    add_batch_norm_conv("batch_norm_relu_conv2d_upsampled", True)
    add("batch_norm_inference_relu", "batch_norm_inference_relu",
        lambda x, weight, bias, running_mean, running_var: away_from_kink(
            F.batch_norm(x, running_mean, running_var, weight, bias, training=False, eps=1e-5)),
        {"x": image(), "weight": random(C), "bias": random(C), "running_mean": random(C),
         "running_var": random(C).abs() + 0.5}, constants=("weight", "bias", "running_mean", "running_var"))
    add("relu", "relu", lambda x: F.relu(x), {"x": away()})
    add("leaky_relu", "leaky_relu", lambda x: F.leaky_relu(x, 0.2), {"x": away()})
    add("tanh", "tanh", lambda x: torch.tanh(x), {"x": image()})
    add("swish", "swish", lambda x: F.silu(x), {"x": image()})
    add("exp", "exp", lambda x: torch.exp(x), {"x": image()})
    add("scale", "scale", lambda x: -1.75 * x, {"x": image()})
    add("add", "add", lambda x, r: x + r, {"x": image(), "r": image()})
    add("multiply", "multiply", lambda x, r: x * r, {"x": image(), "r": image()})
    add("sum", "sum", lambda x: x.sum(), {"x": image()})
    add("mean", "mean", lambda x: x.mean(), {"x": image()})
    add("avg_pool2", "avg_pool2", lambda x: F.avg_pool2d(x, 2), {"x": random(B, C, 8, 6)})
    add("global_avg_pool", "global_avg_pool", lambda x: x.mean((2, 3)), {"x": image()})
    add("upsample2", "upsample2", lambda x: upsample(x), {"x": random(B, C, 4, 3)})
    add("upsample2_square", "upsample2", lambda x: upsample(x), {"x": random(B, C, 8, 8)})
    add("sum_squared_error", "sum_squared_error", lambda x, r: squared_error(x, r), {"x": image(), "r": image()})
    add("squared_error", "squared_error", lambda x, r: squared_error(x, r) / B, {"x": image(), "r": image()})
    add("gaussian_nll", "gaussian_nll", lambda z, mu, logvar: gaussian_nll(z, mu, logvar),
        {"z": random(3, 7), "mu": random(3, 7), "logvar": random(3, 7)})
    # Variances so small that the 1e-6 matters.
    add("gaussian_nll_small_variance", "gaussian_nll", lambda z, mu, logvar: gaussian_nll(z, mu, logvar),
        {"z": random(3, 7), "mu": random(3, 7), "logvar": random(3, 7) - 13})
    add("reparametrise", "reparametrise", lambda mu, logvar, eps: reparametrize(mu, logvar, eps),
        {"mu": random(3, 7), "logvar": random(3, 7), "eps": random(3, 7)}, constants=("eps",))
    add_spectral_norm("spectral_norm_conv", (9, 5, 3, 3))
    add_spectral_norm("spectral_norm_conv1x1", (7, 3, 1, 1))
    add_spectral_norm("spectral_norm_linear", (7, 11))
    add_spectral_norm("spectral_norm_linear_one_output", (1, 13))
    add_spectral_norm("spectral_norm_twenty", (9, 5, 3, 3), passes=(20,))

    safetensors_io.save("ops.safetensors", tensors, metadata)
    case = max(worst, key=worst.get)
    warning = "  WARNING: large" if worst[case] > 2e-4 else ""
    print(f"ops.safetensors: {os.path.getsize('ops.safetensors')} bytes, {len(worst)} cases; "
          f"float32 against float64, worst: {worst[case]:.1e} ({case}){warning}")


if __name__ == "__main__":
    main()

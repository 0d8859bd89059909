// Each op: checks, value, and directly beneath it the gradient, which captures just what it needs.
#include "engine/ops.h"

#include <algorithm>
#include <cmath>

#include "engine/graphed_function.h"
#include "ranks/shared_batch.h"

namespace dualmcmc {

namespace {

void check_same_shape(const Var& a, const Var& b) {
    if (a.shape() != b.shape()) fail("shapes differ: ", to_string(a.shape()), " and ", to_string(b.shape()));
}

const real* data_or_null(const Var& x) { return x.defined() ? x.value().data() : nullptr; }

}  // namespace

// ---- elementwise --------------------------------------------------------------------------------

Var add(const Var& a, const Var& b) {
    check_same_shape(a, b);
    Tensor y(a.shape());
    backend().add(y.data(), a.value().data(), b.value().data(), y.size());
    return record(y, {a, b}, [a, b](const Tensor& dy) {
        if (a.requires_grad()) a.accumulate(dy);
        if (b.requires_grad()) b.accumulate(dy);
    });
}

Var multiply(const Var& a, const Var& b) {
    check_same_shape(a, b);
    Tensor y(a.shape());
    backend().multiply(y.data(), a.value().data(), b.value().data(), y.size());
    return record(y, {a, b}, [a, b](const Tensor& dy) {
        auto give = [&dy](const Var& to, const Tensor& factor) {
            if (!to.requires_grad()) return;
            Tensor d(dy.shape());
            backend().multiply(d.data(), dy.data(), factor.data(), d.size());
            to.accumulate(d);
        };
        give(a, b.value());
        give(b, a.value());
    });
}

Var scale(const Var& x, real factor) {
    Tensor y(x.shape());
    backend().scale(y.data(), x.value().data(), factor, y.size());
    return record(y, {x}, [x, factor](const Tensor& dy) {
        Tensor dx(dy.shape());
        backend().scale(dx.data(), dy.data(), factor, dx.size());
        x.accumulate(dx);
    });
}

Var leaky_relu(const Var& x, real slope) {
    CHECK_GE(slope, 0);
    Tensor y(x.shape());
    backend().leaky_relu(y.data(), x.value().data(), slope, y.size());
    return record(y, {x}, [x, y, slope](const Tensor& dy) {
        Tensor dx(dy.shape());
        backend().leaky_relu_backward(dx.data(), y.data(), dy.data(), slope, dx.size());
        x.accumulate(dx);
    });
}

Var relu(const Var& x) { return leaky_relu(x, 0); }

Var tanh(const Var& x) {
    Tensor y(x.shape());
    backend().tanh(y.data(), x.value().data(), y.size());
    return record(y, {x}, [x, y](const Tensor& dy) {
        Tensor dx(dy.shape());
        backend().tanh_backward(dx.data(), y.data(), dy.data(), dx.size());
        x.accumulate(dx);
    });
}

Var swish(const Var& x) {
    Tensor y(x.shape());
    backend().swish(y.data(), x.value().data(), y.size());
    return record(y, {x}, [x](const Tensor& dy) {
        Tensor dx(dy.shape());
        backend().swish_backward(dx.data(), x.value().data(), dy.data(), dx.size());
        x.accumulate(dx);
    });
}

Var exp(const Var& x) {
    Tensor y(x.shape());
    backend().exp(y.data(), x.value().data(), y.size());
    return record(y, {x}, [x, y](const Tensor& dy) {
        Tensor dx(dy.shape());
        backend().multiply(dx.data(), dy.data(), y.data(), dx.size());
        x.accumulate(dx);
    });
}

// ---- shape --------------------------------------------------------------------------------------

Var reshape(const Var& x, const Shape& shape) {
    return record(x.value().reshaped(shape), {x}, [x](const Tensor& dy) { x.accumulate(dy); });  // accumulate reshapes
}

// ---- reductions ---------------------------------------------------------------------------------

namespace {

Var scaled_sum(const Var& x, real factor) {
    Tensor y(Shape{1});
    backend().sum(y.data(), x.value().data(), factor, x.value().size());
    return record(y, {x}, [x, factor](const Tensor& dy) {
        Tensor dx(x.shape());
        backend().fill_from_scalar(dx.data(), dy.data(), factor, dx.size());
        x.accumulate(dx);
    });
}

}  // namespace

Var sum(const Var& x) { return scaled_sum(x, 1); }
Var mean(const Var& x) {
    const int64_t own = x.dim(0), elements = x.value().size() / own;
    return scaled_sum(x, 1 / real(whole_batch(own) * elements));
}

namespace {

// factor Σ (a - b)²
Var scaled_squared_error(const Var& a, const Var& b, real factor) {
    check_same_shape(a, b);
    Tensor y(Shape{1});
    backend().squared_error(y.data(), a.value().data(), b.value().data(), factor, a.value().size());
    return record(y, {a, b}, [a, b, factor](const Tensor& dy) {
        auto give = [&](const Var& to, const Var& from) {  // d/da Σ (a - b)² = 2 (a - b); for b the same with b - a
            if (!to.requires_grad()) return;
            Tensor d(to.shape());
            backend().scaled_difference(d.data(), to.value().data(), from.value().data(), dy.data(), 2 * factor,
                                        d.size());
            to.accumulate(d);
        };
        give(a, b);
        give(b, a);
    });
}

}  // namespace

Var sum_squared_error(const Var& a, const Var& b) { return scaled_squared_error(a, b, 1); }
Var squared_error(const Var& a, const Var& b) { return scaled_squared_error(a, b, 1 / real(whole_batch(a.dim(0)))); }

Var gaussian_nll(const Var& z, const Var& mu, const Var& logvar) {
    check_same_shape(z, mu);
    check_same_shape(z, logvar);
    const real factor = 1 / real(whole_batch(z.dim(0)));
    Tensor y(Shape{1});
    backend().gaussian_nll(y.data(), z.value().data(), mu.value().data(), logvar.value().data(), factor,
                           z.value().size());
    return record(y, {z, mu, logvar}, [z, mu, logvar, factor](const Tensor& dy) {
        Tensor dmu(mu.shape()), dlogvar(mu.shape());
        backend().gaussian_nll_backward(dmu.data(), dlogvar.data(), z.value().data(), mu.value().data(),
                                        logvar.value().data(), dy.data(), factor, dmu.size());
        if (z.requires_grad()) {
            Tensor dz(z.shape());
            backend().scale(dz.data(), dmu.data(), -1, dz.size());
            z.accumulate(dz);
        }
        if (mu.requires_grad()) mu.accumulate(dmu);
        if (logvar.requires_grad()) logvar.accumulate(dlogvar);
    });
}

Var reparametrise(const Var& mu, const Var& logvar, const Tensor& eps) {
    check_same_shape(mu, logvar);
    CHECK_EQ(eps.size(), mu.value().size());
    Tensor z(mu.shape());
    backend().reparametrise(z.data(), mu.value().data(), logvar.value().data(), eps.data(), z.size());
    return record(z, {mu, logvar}, [mu, logvar, eps](const Tensor& dz) {
        if (mu.requires_grad()) mu.accumulate(dz);
        if (!logvar.requires_grad()) return;
        Tensor dlogvar(dz.shape());
        backend().reparametrise_backward(dlogvar.data(), logvar.value().data(), eps.data(), dz.data(), dz.size());
        logvar.accumulate(dlogvar);
    });
}

// ---- images -------------------------------------------------------------------------------------

Var avg_pool2(const Var& x) {
    const int64_t batch = x.dim(0), height = x.dim(1), width = x.dim(2), channels = x.dim(3);
    CHECK_EQ(height % 2, 0);
    CHECK_EQ(width % 2, 0);
    Tensor y({batch, height / 2, width / 2, channels});
    backend().avg_pool2(y.data(), x.value().data(), batch, height, width, channels);
    return record(y, {x}, [=](const Tensor& dy) {
        Tensor dx(x.shape());
        backend().avg_pool2_backward(dx.data(), dy.data(), batch, height, width, channels);
        x.accumulate(dx);
    });
}

Var global_avg_pool(const Var& x) {
    const int64_t batch = x.dim(0), pixels = x.dim(1) * x.dim(2), channels = x.dim(3);
    Tensor y({batch, channels});
    backend().global_avg_pool(y.data(), x.value().data(), batch, pixels, channels);
    return record(y, {x}, [=](const Tensor& dy) {
        Tensor dx(x.shape());
        backend().global_avg_pool_backward(dx.data(), dy.data(), batch, pixels, channels);
        x.accumulate(dx);
    });
}

Var upsample2(const Var& x) {
    const int64_t batch = x.dim(0), height = x.dim(1), width = x.dim(2), channels = x.dim(3);
    Tensor y({batch, 2 * height, 2 * width, channels});
    backend().upsample2(y.data(), x.value().data(), batch, height, width, channels);
    return record(y, {x}, [=](const Tensor& dy) {
        Tensor dx(x.shape());
        backend().upsample2_backward(dx.data(), dy.data(), batch, height, width, channels);
        x.accumulate(dx);
    });
}

// ---- layers -------------------------------------------------------------------------------------

namespace {

void check_conv(const ConvShape& s, const Var& w, const Var& bias) {
    CHECK_EQ(w.dim(0), w.dim(1));
    CHECK_EQ(w.dim(2), s.in);
    CHECK_GE(s.height + 2 * s.padding, s.kernel);
    CHECK_GE(s.width + 2 * s.padding, s.kernel);
    if (bias.defined()) CHECK_EQ(bias.value().size(), s.out);
}

// (…, columns) -> (columns)
Tensor column_sums(const Tensor& x, int64_t columns) {
    Tensor y({columns});
    backend().column_sum(y.data(), x.data(), x.size() / columns, columns);
    return y;
}

}  // namespace

Var conv2d(const Var& x, const Var& w, const Var& bias, const ConvOptions& o) {
    const ConvShape s{x.dim(0), x.dim(1), x.dim(2), x.dim(3), w.dim(3), w.dim(0), o.stride, o.padding, o.relu, o.pool};
    check_conv(s, w, bias);
    if (s.pool) {
        CHECK(s.kernel == 3 && s.stride == 1 && s.padding == 1);
        CHECK_EQ(s.height % 2, 0);
        CHECK_EQ(s.width % 2, 0);
    }
    Tensor y({s.batch, s.out_height(), s.out_width(), s.out});
    const Var residual = o.residual;
    if (residual.defined()) CHECK(residual.shape() == y.shape());
    backend().conv2d(y.data(), x.value().data(), w.value().data(), data_or_null(bias), data_or_null(residual), s);
    return record(y, {x, w, bias, residual}, [x, w, bias, residual, s](const Tensor& dy) {
        if (residual.requires_grad()) residual.accumulate(dy);
        if (x.requires_grad()) {
            // The kernel adds the gradient that x has so far; in place if nobody else holds it.
            const Tensor& before = x.grad();
            Tensor dx = before.defined() && before.unique() ? before : Tensor(x.shape());
            backend().conv2d_backward_input(dx.data(), dy.data(), w.value().data(), x.value().data(), before.data(), s);
            x.set_grad(dx);
        }
        if (w.requires_grad()) {
            Tensor dw(w.shape());
            backend().conv2d_backward_weight(dw.data(), x.value().data(), dy.data(), s);
            w.accumulate(dw);
        }
        if (bias.requires_grad()) bias.accumulate(column_sums(dy, s.out));
    });
}

Var linear(const Var& x, const Var& w, const Var& bias) {
    CHECK_EQ(x.dim(1), w.dim(0));
    const Var pixels = reshape(x, {x.dim(0), 1, 1, x.dim(1)}), kernel = reshape(w, {1, 1, w.dim(0), w.dim(1)});
    return reshape(conv2d(pixels, kernel, bias, {}), {x.dim(0), w.dim(1)});
}

namespace {

struct BatchStatistics {
    Tensor mean, rstd;  // (channels) each
};

// Of each channel of x over the whole batch. Several ranks pool the means and variances of their images, in the order
// of ranks.
BatchStatistics batch_statistics(const Tensor& x, const Tensor& running_mean, const Tensor& running_var,
                                 real momentum) {
    const int64_t channels = x.shape().back(), rows = x.size() / channels;
    const real epsilon = 1e-5;
    const Tensor mean({channels}), rstd({channels});
    if (!batch_is_shared()) {
        backend().batch_statistics(mean.data(), rstd.data(), running_mean.data(), running_var.data(), x.data(), epsilon,
                                   momentum, rows, channels);
        return {mean, rstd};
    }
    // From 0 and with momentum 1, running statistics become the batch's mean and unbiased variance.
    const Tensor own = Tensor::full({2, channels}, 0);
    backend().batch_statistics(mean.data(), rstd.data(), own.data(), own.data() + channels, x.data(), epsilon, 1, rows,
                               channels);
    const Tensor out({3, channels});
    const int64_t pixels = rows / x.dim(0), whole = whole_batch(x.dim(0));
    between_graphs([=] { out.copy_from_host(whole_batch_statistics(own.to_host(), whole, pixels, epsilon)); });
    backend().ema_update(running_mean.data(), out.data(), 1 - momentum, channels);
    backend().ema_update(running_var.data(), out.data() + 2 * channels, 1 - momentum, channels);
    return {out.slice_view(0, 1).reshaped({channels}), out.slice_view(1, 1).reshaped({channels})};
}

// dx from the gradient dy of batch norm's output and its own sums dweight, dbias. (The kernel divides these by this
// rank's rows, but the means are those of the whole batch.)
void batch_norm_backward_input(const Tensor& dx, Tensor dweight, Tensor dbias, const BatchStatistics& s,
                               const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& dy,
                               real slope) {
    const int64_t channels = x.shape().back(), rows = x.size() / channels;
    if (batch_is_shared()) {
        const double share = double(x.dim(0)) / double(whole_batch(x.dim(0)));
        dweight = dweight.clone();
        dbias = dbias.clone();
        between_graphs([=] { sum_over_ranks({dweight, dbias}, share); });
    }
    backend().batch_norm_backward_elemt(dx.data(), dweight.data(), dbias.data(), s.mean.data(), s.rstd.data(), x.data(),
                                        weight.data(), bias.data(), dy.data(), slope, rows, channels);
}

Var batch_norm_leaky_relu(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean,
                          const Tensor& running_var, real momentum, real slope) {
    const int64_t channels = x.shape().back(), rows = x.value().size() / channels;
    CHECK_EQ(weight.value().size(), channels);
    CHECK_EQ(bias.value().size(), channels);
    CHECK_EQ(running_mean.size(), channels);
    CHECK_EQ(running_var.size(), channels);
    Tensor y(x.shape());
    const BatchStatistics s = batch_statistics(x.value(), running_mean, running_var, momentum);
    backend().batch_norm(y.data(), x.value().data(), s.mean.data(), s.rstd.data(), weight.value().data(),
                         bias.value().data(), slope, rows, channels);
    return record(y, {x, weight, bias}, [=](const Tensor& dy) {
        Tensor dweight({channels}), dbias({channels});
        backend().batch_norm_backward_reduce(dweight.data(), dbias.data(), s.mean.data(), s.rstd.data(),
                                             x.value().data(), weight.value().data(), bias.value().data(), dy.data(),
                                             slope, rows, channels);
        if (x.requires_grad()) {
            Tensor dx(x.shape());
            batch_norm_backward_input(dx, dweight, dbias, s, x.value(), weight.value(), bias.value(), dy, slope);
            x.accumulate(dx);
        }
        if (weight.requires_grad()) weight.accumulate(dweight);
        if (bias.requires_grad()) bias.accumulate(dbias);
    });
}

}  // namespace

Var batch_norm(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean,
               const Tensor& running_var) {
    return batch_norm_leaky_relu(x, weight, bias, running_mean, running_var, 0.1, 1);
}

Var batch_norm_relu(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean,
                    const Tensor& running_var, real momentum) {
    return batch_norm_leaky_relu(x, weight, bias, running_mean, running_var, momentum, 0);
}

namespace {
// The same as one node, for a device that has the kernel.
Var fused_norm_relu_conv2d(const Var& x, const Var& weight, const Var& shift, const Tensor& running_mean,
                           const Tensor& running_var, real momentum, const Var& w, const Var& bias,
                           const NormReluConvOptions& o);
}  // namespace

Var batch_norm_relu_conv2d(const Var& x, const Var& weight, const Var& shift, const Tensor& running_mean,
                           const Tensor& running_var, real momentum, const Var& w, const Var& bias,
                           const NormReluConvOptions& o) {
    if (backend().norm_relu_conv2d)
        return fused_norm_relu_conv2d(x, weight, shift, running_mean, running_var, momentum, w, bias, o);
    const auto up = [](const Var& of, bool upsample) { return upsample && of.defined() ? upsample2(of) : of; };
    return conv2d(up(batch_norm_relu(x, weight, shift, running_mean, running_var, momentum), o.upsample), w, bias,
                  {.padding = o.padding, .residual = up(o.residual, o.upsample_residual)});
}

namespace {

Var fused_norm_relu_conv2d(const Var& x, const Var& weight, const Var& shift, const Tensor& running_mean,
                           const Tensor& running_var, real momentum, const Var& w, const Var& bias,
                           const NormReluConvOptions& o) {
    const int64_t scale = o.upsample ? 2 : 1, channels = x.dim(3);
    const ConvShape s{x.dim(0), scale * x.dim(1), scale * x.dim(2), channels, w.dim(3), w.dim(0), 1, o.padding};
    check_conv(s, w, bias);
    for (const int64_t size : {weight.value().size(), shift.value().size(), running_mean.size(), running_var.size()})
        CHECK_EQ(size, channels);
    const Tensor y({s.batch, s.out_height(), s.out_width(), s.out});
    const Var residual = o.residual;
    if (residual.defined()) {
        const int64_t scale_residual = o.upsample_residual ? 2 : 1;
        CHECK(residual.shape() ==
              (Shape{s.batch, s.out_height() / scale_residual, s.out_width() / scale_residual, s.out}));
        CHECK_EQ(s.out_height() % scale_residual + s.out_width() % scale_residual, 0);
    }
    const BatchStatistics statistics = batch_statistics(x.value(), running_mean, running_var, momentum);
    const auto in = [=] {
        return NormReluConv{x.value().data(),
                            statistics.mean.data(),
                            statistics.rstd.data(),
                            weight.value().data(),
                            shift.value().data(),
                            s,
                            o.upsample,
                            o.upsample_residual};
    };
    backend().norm_relu_conv2d(y.data(), in(), w.value().data(), data_or_null(bias), data_or_null(residual));
    return record(y, {x, weight, shift, w, bias, residual}, [=](const Tensor& dy) {
        if (residual.requires_grad() && !o.upsample_residual) residual.accumulate(dy);
        const Tensor dresidual = residual.requires_grad() && o.upsample_residual ? Tensor(residual.shape()) : Tensor();
        const Tensor dx(x.shape()), dweight({channels}), dshift({channels});
        backend().norm_relu_conv2d_backward(dx.data(), dweight.data(), dshift.data(), dresidual.data(), in(),
                                            w.value().data(), dy.data());
        if (dresidual.defined()) residual.accumulate(dresidual);
        if (x.requires_grad()) {
            batch_norm_backward_input(dx, dweight, dshift, statistics, x.value(), weight.value(), shift.value(), dx, 0);
            x.accumulate(dx);
        }
        if (weight.requires_grad()) weight.accumulate(dweight);
        if (shift.requires_grad()) shift.accumulate(dshift);
        if (w.requires_grad()) {
            const Tensor dw(w.shape());
            backend().norm_relu_conv2d_backward_weight(dw.data(), in(), dy.data());
            w.accumulate(dw);
        }
        if (bias.requires_grad()) bias.accumulate(column_sums(dy, s.out));
    });
}

}  // namespace

Var batch_norm_inference_relu(const Var& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                              const Tensor& var) {
    const int64_t channels = x.shape().back(), rows = x.value().size() / channels;
    for (const Tensor& tensor : {weight, bias, mean, var}) CHECK_EQ(tensor.size(), channels);
    Tensor y(x.shape());
    backend().batch_norm_inference(y.data(), x.value().data(), mean.data(), var.data(), weight.data(), bias.data(),
                                   1e-5, rows, channels);
    return record(y, {x}, [=](const Tensor& dy) {
        Tensor dx(x.shape());
        backend().batch_norm_inference_backward(dx.data(), y.data(), dy.data(), var.data(), weight.data(), 1e-5, rows,
                                                channels);
        x.accumulate(dx);
    });
}

std::vector<Var> spectral_norms(const std::vector<SpectralNormInput>& all) {
    std::vector<SpectralWeight> weights;
    std::vector<Tensor> results, sigmas;
    for (const auto& [w, u, v] : all) {
        const int64_t columns = w.shape().back(), rows = w.value().size() / columns;
        CHECK_EQ(u.size(), columns);
        CHECK_EQ(v.size(), rows);
        results.emplace_back(w.shape());
        sigmas.emplace_back(Shape{1});
        weights.push_back(
            {results.back().data(), sigmas.back().data(), u.data(), v.data(), w.value().data(), rows, columns});
    }
    backend().spectral_norms(weights.data(), int64_t(weights.size()), 1e-12);
    std::vector<Var> out;
    for (size_t i = 0; i < all.size(); ++i) {
        const auto& [w, u, v] = all[i];
        const Tensor &y = results[i], &sigma = sigmas[i];
        if (!grad_enabled()) {
            out.push_back(record(y, {}, {}));
            continue;
        }
        // Later passes advance u and v; the gradient is that of these.
        out.push_back(record(y, {w}, [w = w, y, sigma, u = u.clone(), v = v.clone()](const Tensor& dy) {
            Tensor dw(w.shape());
            backend().spectral_norm_backward(dw.data(), y.data(), sigma.data(), u.data(), v.data(), dy.data(), v.size(),
                                             u.size());
            w.accumulate(dw);
        }));
    }
    return out;
}

Var spectral_norm(const Var& w, const Tensor& u, const Tensor& v) { return spectral_norms({{w, u, v}})[0]; }

}  // namespace dualmcmc

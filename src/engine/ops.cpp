// Each op: checks, value, and directly beneath it the gradient, which captures just what it needs.
#include "engine/ops.h"

#include <algorithm>

namespace dualmcmc {

namespace {

void check_same_shape(const Var& a, const Var& b) {
    if (a.shape() != b.shape()) fail("shapes differ: ", to_string(a.shape()), " and ", to_string(b.shape()));
}

const float* data_or_null(const Var& x) { return x.defined() ? x.value().data() : nullptr; }

}  // namespace

// ---- elementwise ----------------------------------------------------------------------------------------------------------------

Var add(const Var& a, const Var& b) {
    check_same_shape(a, b);
    Tensor y(a.shape());
    backend().add(y.data(), a.value().data(), b.value().data(), y.size());
    return record(y, {a, b}, [a, b](const Tensor& dy) {
        if (a.wanted()) a.accumulate(dy);
        if (b.wanted()) b.accumulate(dy);
    });
}

Var multiply(const Var& a, const Var& b) {
    check_same_shape(a, b);
    Tensor y(a.shape());
    backend().multiply(y.data(), a.value().data(), b.value().data(), y.size());
    return record(y, {a, b}, [a, b](const Tensor& dy) {
        auto give = [&dy](const Var& to, const Tensor& factor) {
            if (!to.wanted()) return;
            Tensor d(dy.shape());
            backend().multiply(d.data(), dy.data(), factor.data(), d.size());
            to.accumulate(d);
        };
        give(a, b.value());
        give(b, a.value());
    });
}

Var scale(const Var& x, float factor) {
    Tensor y(x.shape());
    backend().scale(y.data(), x.value().data(), factor, y.size());
    return record(y, {x}, [x, factor](const Tensor& dy) {
        Tensor dx(dy.shape());
        backend().scale(dx.data(), dy.data(), factor, dx.size());
        x.accumulate(dx);
    });
}

Var leaky_relu(const Var& x, float slope) {
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

// ---- shape ----------------------------------------------------------------------------------------------------------------------

Var reshape(const Var& x, const Shape& shape) {
    return record(x.value().reshaped(shape), {x}, [x](const Tensor& dy) { x.accumulate(dy); });  // accumulate reshapes
}

// ---- reductions -----------------------------------------------------------------------------------------------------------------

namespace {

Var scaled_sum(const Var& x, float factor) {
    Tensor y(Shape{1});
    backend().sum(y.data(), x.value().data(), factor, x.value().size());
    return record(y, {x}, [x, factor](const Tensor& dy) {
        Tensor dx(x.shape());
        backend().broadcast(dx.data(), dy.data(), factor, dx.size());
        x.accumulate(dx);
    });
}

}  // namespace

Var sum(const Var& x) { return scaled_sum(x, 1); }
Var mean(const Var& x) { return scaled_sum(x, 1 / float(x.value().size())); }

Var squared_error(const Var& a, const Var& b) {
    check_same_shape(a, b);
    const float factor = 1 / float(a.dim(0));
    Tensor y(Shape{1});
    backend().squared_error(y.data(), a.value().data(), b.value().data(), factor, a.value().size());
    return record(y, {a, b}, [a, b, factor](const Tensor& dy) {
        auto give = [&](const Var& to, const Var& from) {  // d/da Σ (a - b)² = 2 (a - b); for b the same with b - a
            if (!to.wanted()) return;
            Tensor d(to.shape());
            backend().difference_by(d.data(), to.value().data(), from.value().data(), dy.data(), 2 * factor, d.size());
            to.accumulate(d);
        };
        give(a, b);
        give(b, a);
    });
}

Var gaussian_nll(const Var& z, const Var& mu, const Var& logvar) {
    check_same_shape(z, mu);
    check_same_shape(z, logvar);
    const float factor = 1 / float(z.dim(0));
    Tensor y(Shape{1});
    backend().gaussian_nll(y.data(), z.value().data(), mu.value().data(), logvar.value().data(), factor, z.value().size());
    return record(y, {z, mu, logvar}, [z, mu, logvar, factor](const Tensor& dy) {
        Tensor dmu(mu.shape()), dlogvar(mu.shape());
        backend().gaussian_nll_backward(dmu.data(), dlogvar.data(), z.value().data(), mu.value().data(), logvar.value().data(),
                                        dy.data(), factor, dmu.size());
        if (z.wanted()) {
            Tensor dz(z.shape());
            backend().scale(dz.data(), dmu.data(), -1, dz.size());
            z.accumulate(dz);
        }
        if (mu.wanted()) mu.accumulate(dmu);
        if (logvar.wanted()) logvar.accumulate(dlogvar);
    });
}

Var reparametrise(const Var& mu, const Var& logvar, const Tensor& eps) {
    check_same_shape(mu, logvar);
    CHECK_EQ(eps.size(), mu.value().size());
    Tensor z(mu.shape());
    backend().reparametrise(z.data(), mu.value().data(), logvar.value().data(), eps.data(), z.size());
    return record(z, {mu, logvar}, [mu, logvar, eps](const Tensor& dz) {
        if (mu.wanted()) mu.accumulate(dz);
        if (!logvar.wanted()) return;
        Tensor dlogvar(dz.shape());
        backend().reparametrise_backward(dlogvar.data(), logvar.value().data(), eps.data(), dz.data(), dz.size());
        logvar.accumulate(dlogvar);
    });
}

// ---- images ---------------------------------------------------------------------------------------------------------------------

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

// ---- layers ---------------------------------------------------------------------------------------------------------------------

Var conv2d(const Var& x, const Var& w, const Var& bias, const ConvOptions& o) {
    CHECK_EQ(w.dim(0), w.dim(1));
    CHECK_EQ(w.dim(2), x.dim(3));
    ConvShape s{x.dim(0), x.dim(1), x.dim(2), x.dim(3), w.dim(3), w.dim(0), o.stride, o.padding, o.relu, o.pool, w.number()};
    CHECK_GE(s.height + 2 * s.padding, s.kernel);
    CHECK_GE(s.width + 2 * s.padding, s.kernel);
    if (s.pool) {
        CHECK(s.kernel == 3 && s.stride == 1 && s.padding == 1);
        CHECK_EQ(s.height % 2, 0);
        CHECK_EQ(s.width % 2, 0);
    }
    if (bias.defined()) CHECK_EQ(bias.value().size(), s.out);
    Tensor y({s.batch, s.out_height(), s.out_width(), s.out});
    const Var skip = o.skip;
    if (skip.defined()) CHECK(skip.shape() == y.shape());
    Tensor signs;
    if (s.relu && backend().concurrent) {  // no GPU notes them
        signs = Tensor(Shape{(s.x_size() + 31) / 32});
        s.signs = reinterpret_cast<uint16_t*>(signs.data());
    }
    backend().conv2d(y.data(), x.value().data(), w.value().data(), data_or_null(bias), data_or_null(skip), s);
    return record(y, {x, w, bias, skip}, [x, w, bias, skip, signs, s](const Tensor& dy) {
        if (skip.wanted()) skip.accumulate(dy);
        if (x.wanted()) {
            // Onto the gradient that x has so far, in its place where nobody else holds it.
            const Tensor& before = x.grad();
            Tensor dx = before.defined() && before.unique() ? before : Tensor(x.shape());
            backend().conv2d_backward_input(dx.data(), dy.data(), w.value().data(), x.value().data(), before.data(), s);
            x.set_grad(dx);
        }
        if (w.wanted()) {
            Tensor dw(w.shape());
            backend().conv2d_backward_weight(dw.data(), x.value().data(), dy.data(), s);
            w.accumulate(dw);
        }
        if (bias.wanted()) {
            Tensor db(bias.shape());
            backend().column_sum(db.data(), dy.data(), dy.size() / s.out, s.out);
            bias.accumulate(db);
        }
    });
}

Var linear(const Var& x, const Var& w, const Var& bias) {
    CHECK_EQ(x.dim(1), w.dim(0));
    const Var pixels = reshape(x, {x.dim(0), 1, 1, x.dim(1)}), kernel = reshape(w, {1, 1, w.dim(0), w.dim(1)});
    return reshape(conv2d(pixels, kernel, bias, {}), {x.dim(0), w.dim(1)});
}

namespace {

Var batch_norm_leaky_relu(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean, const Tensor& running_var,
                          float momentum, float slope) {
    const int64_t channels = x.shape().back(), rows = x.value().size() / channels;
    CHECK_EQ(weight.value().size(), channels);
    CHECK_EQ(bias.value().size(), channels);
    CHECK_EQ(running_mean.size(), channels);
    CHECK_EQ(running_var.size(), channels);
    Tensor y(x.shape()), mean({channels}), rstd({channels});
    backend().batch_statistics(mean.data(), rstd.data(), running_mean.data(), running_var.data(), x.value().data(), 1e-5f, momentum,
                               rows, channels);
    backend().batch_norm(y.data(), x.value().data(), mean.data(), rstd.data(), weight.value().data(), bias.value().data(), slope, rows,
                         channels);
    return record(y, {x, weight, bias}, [=](const Tensor& dy) {
        Tensor dweight({channels}), dbias({channels});
        const float *values = x.value().data(), *scale = weight.value().data(), *shift = bias.value().data();
        backend().batch_norm_sums(dweight.data(), dbias.data(), mean.data(), rstd.data(), values, scale, shift, dy.data(), slope, rows, channels);
        if (x.wanted()) {
            Tensor dx(x.shape());
            backend().batch_norm_backward(dx.data(), dweight.data(), dbias.data(), mean.data(), rstd.data(), values, scale, shift,
                                          dy.data(), slope, rows, rows, channels);
            x.accumulate(dx);
        }
        if (weight.wanted()) weight.accumulate(dweight);
        if (bias.wanted()) bias.accumulate(dbias);
    });
}

}  // namespace

Var batch_norm(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean, const Tensor& running_var) {
    return batch_norm_leaky_relu(x, weight, bias, running_mean, running_var, 0.1f, 1);
}

Var batch_norm_relu(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean, const Tensor& running_var,
                    float momentum) {
    return batch_norm_leaky_relu(x, weight, bias, running_mean, running_var, momentum, 0);
}

namespace {

// A batch in groups of images, each of at most 2^17 numbers at its largest on the way, which fit the second-level cache. Where there are
// several, their number is a multiple of 4, so that few threads have equal shares.
struct Groups {
    int64_t batch, count;
    Groups(int64_t batch_, int64_t numbers_per_image) : batch(batch_), count((batch * numbers_per_image + most - 1) / most) {
        if (count > 1) count = std::min(batch, (count + 3) / 4 * 4);
    }
    static constexpr int64_t most = int64_t(1) << 17;
    // body(group, first image, images)
    template <class Body>
    void run(Body body) const {
        parallel_tasks(count, [&](int64_t group) {
            const int64_t first = batch * group / count;
            body(group, first, batch * (group + 1) / count - first);
        });
    }
};

// What batch_norm_relu_conv2d keeps for its gradient, and both of its directions, group by group.
struct NormedConv {
    Var x, weight, shift, w, bias, skip;
    bool upsample, upsample_skip;
    ConvShape one;      // the convolution, of one image
    Tensor mean, rstd;  // of x's channels
    Groups groups;

    NormedConv(const Var& x_, const Var& weight_, const Var& shift_, const Var& w_, const Var& bias_, const NormedConvOptions& o)
        : x(x_), weight(weight_), shift(shift_), w(w_), bias(bias_), skip(o.skip), upsample(o.upsample), upsample_skip(o.upsample_skip),
          one(shape_of_one(x_, w_, o)), mean({one.in}), rstd({one.in}), groups(x.dim(0), std::max(one.x_size(), one.y_size())) {
        CHECK_EQ(w.dim(0), w.dim(1));
        CHECK_EQ(w.dim(2), one.in);
        CHECK_EQ(weight.value().size(), one.in);
        CHECK_EQ(shift.value().size(), one.in);
        CHECK_GE(one.height + 2 * one.padding, one.kernel);
        CHECK_GE(one.width + 2 * one.padding, one.kernel);
        if (bias.defined()) CHECK_EQ(bias.value().size(), one.out);
        if (!skip.defined()) return;
        const int64_t raised = upsample_skip ? 2 : 1;
        CHECK(skip.shape() == (Shape{batch(), one.out_height() / raised, one.out_width() / raised, one.out}));
        CHECK_EQ(one.out_height() % raised + one.out_width() % raised, 0);
    }
    static ConvShape shape_of_one(const Var& x, const Var& w, const NormedConvOptions& o) {
        const int64_t scale = o.upsample ? 2 : 1;
        const uint64_t number = w.number() ? w.number() : fresh_number();  // the weights stay as they are until this op is done
        return {1, scale * x.dim(1), scale * x.dim(2), x.dim(3), w.dim(3), w.dim(0), 1, o.padding, false, false, number};
    }

    int64_t batch() const { return x.dim(0); }
    int64_t pixels() const { return x.dim(1) * x.dim(2); }
    int64_t place(int64_t image) const { return image * pixels() * one.in; }  // of an image's first number in x
    Tensor like_x(int64_t images) const { return Tensor({images, x.dim(1), x.dim(2), one.in}); }
    ConvShape shape(int64_t images) const {
        ConvShape s = one;
        s.batch = images;
        return s;
    }

    // What the convolution sees of some images.
    Tensor input(int64_t first, int64_t images) const {
        const Tensor a = like_x(images);
        backend().batch_norm(a.data(), x.value().data() + place(first), mean.data(), rstd.data(), weight.value().data(),
                             shift.value().data(), 0, images * pixels(), one.in);
        if (!upsample) return a;
        const Tensor u({images, one.height, one.width, one.in});
        backend().upsample2(u.data(), a.data(), images, x.dim(1), x.dim(2), one.in);
        return u;
    }

    void forward(const Tensor& y, int64_t first, int64_t images) const {
        const ConvShape s = shape(images);
        const float* added = skip.defined() ? skip.value().data() + first * skip.value().size() / batch() : nullptr;
        Tensor raised;
        if (added && upsample_skip) {
            raised = Tensor({images, s.out_height(), s.out_width(), s.out});
            backend().upsample2(raised.data(), added, images, s.out_height() / 2, s.out_width() / 2, s.out);
            added = raised.data();
        }
        backend().conv2d(y.data() + first * one.y_size(), input(first, images).data(), w.value().data(), data_or_null(bias), added, s);
    }

    // From dy of some images the gradient of what was normalised, onto `target`, and batch_norm_sums' two sums of it.
    void backward_input(float* target, float* sums, const Tensor& dy, int64_t first, int64_t images) const {
        const Tensor raised = upsample ? Tensor({images, one.height, one.width, one.in}) : Tensor();
        backend().conv2d_backward_input(upsample ? raised.data() : target, dy.data(), w.value().data(), nullptr, nullptr, shape(images));
        if (upsample) backend().upsample2_backward(target, raised.data(), images, x.dim(1), x.dim(2), one.in);
        backend().batch_norm_sums(sums, sums + one.in, mean.data(), rstd.data(), x.value().data() + place(first), weight.value().data(),
                                  shift.value().data(), target, 0, images * pixels(), one.in);
    }

    // Those of w and bias, which want the whole batch.
    void backward_weights(const Tensor& dy) const {
        if (w.wanted()) {
            const Tensor dw(w.shape());
            backend().conv2d_backward_weight(dw.data(), input(0, batch()).data(), dy.data(), shape(batch()));
            w.accumulate(dw);
        }
        if (bias.wanted()) {
            const Tensor db(bias.shape());
            backend().column_sum(db.data(), dy.data(), dy.size() / one.out, one.out);
            bias.accumulate(db);
        }
    }

    void backward(Gradient& gradient) const {
        if (w.wanted() || bias.wanted() || (skip.wanted() && !upsample_skip)) gradient.whole();
        const bool into_norm = x.wanted() || weight.wanted() || shift.wanted();
        const Tensor g = into_norm ? Tensor(x.shape()) : Tensor(), sums({groups.count, 2, one.in});  // g: the gradient of what is normalised
        const Tensor dskip = skip.wanted() && upsample_skip ? Tensor(skip.shape()) : Tensor();
        groups.run([&](int64_t group, int64_t first, int64_t images) {
            const Tensor dy = gradient.rows(first, images);
            if (dskip.defined())
                backend().upsample2_backward(dskip.data() + first * dskip.size() / batch(), dy.data(), images, one.out_height() / 2,
                                             one.out_width() / 2, one.out);
            if (into_norm) backward_input(g.data() + place(first), sums.data() + group * 2 * one.in, dy, first, images);
        });
        if (skip.wanted()) skip.accumulate(dskip.defined() ? dskip : gradient.whole());
        if (w.wanted() || bias.wanted()) backward_weights(gradient.whole());
        if (into_norm) backward_norm(g, sums);
    }

    void backward_norm(const Tensor& g, const Tensor& sums) const {
        const Tensor total({2, one.in});
        backend().column_sum(total.data(), sums.data(), groups.count, 2 * one.in);
        if (weight.wanted()) weight.accumulate(total.rows(0, 1).reshaped({one.in}));
        if (shift.wanted()) shift.accumulate(total.rows(1, 1).reshaped({one.in}));
        if (!x.wanted()) return;
        // Not x itself, which will hold this.
        x.accumulate_later([=, values = x.value(), weight = weight, shift = shift, mean = mean, rstd = rstd](int64_t first, int64_t images) {
            const int64_t channels = values.shape().back(), per_image = values.size() / values.dim(0), rows = per_image / channels;
            Tensor dx({images, values.dim(1), values.dim(2), channels});
            const int64_t skipped = first * per_image;
            backend().batch_norm_backward(dx.data(), total.data(), total.data() + channels, mean.data(), rstd.data(), values.data() + skipped,
                                          weight.value().data(), shift.value().data(), g.data() + skipped, 0, values.dim(0) * rows,
                                          images * rows, channels);
            return dx;
        });
    }
};

}  // namespace

Var batch_norm_relu_conv2d(const Var& x, const Var& weight, const Var& shift, const Tensor& running_mean, const Tensor& running_var,
                           float momentum, const Var& w, const Var& bias, const NormedConvOptions& o) {
    const auto up = [](const Var& of, bool wanted) { return wanted ? upsample2(of) : of; };
    if (!backend().concurrent)
        return conv2d(up(batch_norm_relu(x, weight, shift, running_mean, running_var, momentum), o.upsample), w, bias,
                      {.padding = o.padding, .skip = o.skip.defined() ? up(o.skip, o.upsample_skip) : Var()});
    const NormedConv op(x, weight, shift, w, bias, o);
    CHECK_EQ(running_mean.size(), op.one.in);
    CHECK_EQ(running_var.size(), op.one.in);
    backend().batch_statistics(op.mean.data(), op.rstd.data(), running_mean.data(), running_var.data(), x.value().data(), 1e-5f, momentum,
                               op.batch() * op.pixels(), op.one.in);
    const Tensor y({op.batch(), op.one.out_height(), op.one.out_width(), op.one.out});
    op.groups.run([&](int64_t, int64_t first, int64_t images) { op.forward(y, first, images); });
    return record_by_images(y, {x, weight, shift, w, bias, o.skip}, [op](Gradient& gradient) { op.backward(gradient); });
}

Var fixed_norm_relu(const Var& x, const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var) {
    const int64_t channels = x.shape().back(), rows = x.value().size() / channels;
    for (const Tensor& tensor : {weight, bias, mean, var}) CHECK_EQ(tensor.size(), channels);
    Tensor y(x.shape());
    backend().fixed_norm(y.data(), x.value().data(), mean.data(), var.data(), weight.data(), bias.data(), 1e-5f, rows, channels);
    return record(y, {x}, [=](const Tensor& dy) {
        Tensor dx(x.shape());
        backend().fixed_norm_backward(dx.data(), y.data(), dy.data(), var.data(), weight.data(), 1e-5f, rows, channels);
        x.accumulate(dx);
    });
}

std::vector<Var> spectral_norms(const std::vector<Spectral>& all) {
    std::vector<SpectralWeight> weights;
    std::vector<Tensor> results, sigmas;
    for (const auto& [w, u, v] : all) {
        const int64_t columns = w.shape().back(), rows = w.value().size() / columns;
        CHECK_EQ(u.size(), columns);
        CHECK_EQ(v.size(), rows);
        results.emplace_back(w.shape());
        sigmas.emplace_back(Shape{1});
        weights.push_back({results.back().data(), sigmas.back().data(), u.data(), v.data(), w.value().data(), rows, columns});
    }
    backend().spectral_norms(weights.data(), int64_t(weights.size()), 1e-12f);
    std::vector<Var> out;
    for (size_t i = 0; i < all.size(); ++i) {
        const auto& [w, u, v] = all[i];
        const Tensor &y = results[i], &sigma = sigmas[i];
        if (!taping()) {
            out.push_back(record(y, {}, {}));
            continue;
        }
        // Later passes move u and v on: the gradient keeps those of this moment.
        out.push_back(record(y, {w}, [w = w, y, sigma, u = u.clone(), v = v.clone()](const Tensor& dy) {
            Tensor dw(w.shape());
            backend().spectral_norm_backward(dw.data(), y.data(), sigma.data(), u.data(), v.data(), dy.data(), v.size(), u.size());
            w.accumulate(dw);
        }));
    }
    return out;
}

Var spectral_norm(const Var& w, const Tensor& u, const Tensor& v) { return spectral_norms({{w, u, v}})[0]; }

}  // namespace dualmcmc

// The cases of rounding.h. Compiled twice, so that all numbers are of the type `real`; inputs are float32 numbers in
// both, and so are constants.
#include <algorithm>
#include <optional>
#include <random>

#include "engine/adam.h"
#include "engine/ops.h"
#include "experiments/relu_signs.h"
#include "method/dual_mcmc.h"
#include "rounding.h"
#include "training/checkpoint.h"

namespace dualmcmc {

namespace {

using rounding::Case;
using rounding::Filtering;
using rounding::Quantity;
using Doubles = std::vector<double>;
using Function = std::function<Var(const std::vector<Var>&)>;

// ---- inputs -------------------------------------------------------------------------------------

// Uniform in [low, high): float32 numbers.
Doubles random_floats(int64_t n, uint32_t seed, float low = -1, float high = 1) {
    std::mt19937 generator(seed);
    Doubles values(static_cast<size_t>(n));
    for (double& value : values) value = double(low + (high - low) * (float(generator() >> 8) * 0x1p-24f));
    return values;
}

struct Input {
    Shape shape;
    Doubles values;
    Input(const Shape& shape_, uint32_t seed, float low = -1, float high = 1)
        : shape(shape_), values(random_floats(element_count(shape_), seed, low, high)) {}
    Input(const Shape& shape_, Doubles values_) : shape(shape_), values(std::move(values_)) {}
    Tensor tensor() const { return Tensor::from_host(shape, std::vector<real>(values.begin(), values.end())); }
};
using Inputs = std::vector<Input>;

Doubles values_of(const Tensor& x) {
    const std::vector<real> values = x.to_host();
    return {values.begin(), values.end()};
}

template <class Formula>
Doubles tabulate(size_t n, Formula formula) {
    Doubles values(n);
    for (size_t i = 0; i < n; ++i) values[i] = formula(i);
    return values;
}

// Of each value; keeps shapes.
template <class Formula>
Inputs mapped(Inputs inputs, Formula formula) {
    for (Input& input : inputs)
        for (double& value : input.values) value = formula(value);
    return inputs;
}

// y = f(inputs), and the gradient of each input for the upstream gradient dy.
std::vector<Doubles> forward_and_backward(const Function& f, const Inputs& inputs, const Input& dy) {
    std::vector<Var> leaves;
    for (const Input& input : inputs) leaves.emplace_back(input.tensor());
    const Var y = f(leaves);
    backward(y, leaves, dy.tensor());
    std::vector<Doubles> results{values_of(y.value())};
    for (const Var& leaf : leaves) results.push_back(values_of(leaf.grad()));
    return results;
}

constexpr bool in_double = sizeof(real) == sizeof(double);

// ---- ops that are linear in each input: their magnitude is the op itself on absolute values -----

struct Linear {
    std::string name;
    Function f;
    Inputs inputs;
    Shape result;
    std::vector<std::pair<std::string, double>> quantities;  // y and the gradients: name, roundings
    Filtering filtering = Filtering::none;
    bool gemm = false;
    Function magnitude{};  // f, unless it has negative coefficients
};

Case linear_case(const Linear& c) {
    return {c.name, c.filtering, [c] {
                const Input dy(c.result, 1000);
                const std::vector<Doubles> values = forward_and_backward(c.f, c.inputs, dy);
                std::vector<Doubles> magnitudes(values.size()), squares(values.size());
                const auto run = [&](auto formula) {
                    return forward_and_backward(c.magnitude ? c.magnitude : c.f, mapped(c.inputs, formula),
                                                mapped(Inputs{dy}, formula)[0]);
                };
                if (in_double) magnitudes = run([](double x) { return std::abs(x); });
                if (in_double && c.gemm) squares = run([](double x) { return x * x; });
                std::vector<Quantity> all;
                for (size_t k = 0; k < values.size(); ++k) {
                    for (double& value : squares[k]) value = std::sqrt(value);
                    const auto& [name, roundings] = c.quantities[k];
                    all.push_back({name, values[k], roundings, magnitudes[k], squares[k]});
                }
                return all;
            }};
}

void add_pointwise(std::vector<Case>& all) {
    const Shape shape{3, 5, 7, 11};
    const Input a(shape, 1), b(shape, 2, -0.3f, 0.3f);  // b finer than a, so that a + b is rounded
    all.push_back(
        linear_case({"add", [](auto& v) { return add(v[0], v[1]); }, {a, b}, shape, {{"y", 1}, {"da", 0}, {"db", 0}}}));
    all.push_back(linear_case(
        {"multiply", [](auto& v) { return multiply(v[0], v[1]); }, {a, b}, shape, {{"y", 1}, {"da", 1}, {"db", 1}}}));
    all.push_back(linear_case({"scale", [](auto& v) { return scale(v[0], 1.7f); }, {a}, shape, {{"y", 1}, {"dx", 1}}}));
    all.push_back(
        linear_case({"leaky_relu", [](auto& v) { return leaky_relu(v[0], 0.2f); }, {a}, shape, {{"y", 1}, {"dx", 1}}}));
    all.push_back(linear_case({"relu", [](auto& v) { return relu(v[0]); }, {a}, shape, {{"y", 0}, {"dx", 0}}}));
    // n terms; the factors of squared errors take three roundings, the mean's one.
    const double n = double(a.values.size());
    all.push_back(linear_case({"sum", [](auto& v) { return sum(v[0]); }, {a}, {1}, {{"y", n}, {"dx", 0}}}));
    all.push_back(linear_case({"mean", [](auto& v) { return mean(v[0]); }, {a}, {1}, {{"y", n + 2}, {"dx", 2}}}));
    all.push_back(linear_case({"sum_squared_error",
                               [](auto& v) { return sum_squared_error(v[0], v[1]); },
                               {a, b},
                               {1},
                               {{"y", n + 3}, {"da", 3}, {"db", 3}},
                               Filtering::none,
                               false,
                               [](auto& v) { return sum_squared_error(v[0], scale(v[1], -1)); }}));
    all.push_back(linear_case({"squared_error",
                               [](auto& v) { return squared_error(v[0], v[1]); },
                               {a, b},
                               {1},
                               {{"y", n + 5}, {"da", 4}, {"db", 4}},
                               Filtering::none,
                               false,
                               [](auto& v) { return squared_error(v[0], scale(v[1], -1)); }}));
}

// An upsampled value has two weights in each dimension, each a fraction i (n - 1) mod (2n - 1) / (2n - 1) and rounded
// twice, 1 - fraction once more; then a product and a sum in each dimension: 10. The gradient adds four in each.
void add_images(std::vector<Case>& all) {
    all.push_back(linear_case({"avg_pool2",
                               [](auto& v) { return avg_pool2(v[0]); },
                               {Input({3, 8, 6, 5}, 1)},
                               {3, 4, 3, 5},
                               {{"y", 4}, {"dx", 1}}}));
    all.push_back(linear_case({"global_avg_pool",
                               [](auto& v) { return global_avg_pool(v[0]); },
                               {Input({3, 8, 8, 17}, 1)},
                               {3, 17},
                               {{"y", 64 + 2}, {"dx", 2}}}));
    all.push_back(linear_case({"upsample2",
                               [](auto& v) { return upsample2(v[0]); },
                               {Input({3, 7, 5, 17}, 1)},
                               {3, 14, 10, 17},
                               {{"y", 10}, {"dx", 16}}}));
}

// ---- convolutions -------------------------------------------------------------------------------

// Forward, dgrad and wgrad sum over a window and its channels, over the other channels, and over the pixels.
Case convolution(const std::string& name, const Shape& x, const Shape& w, const ConvOptions& o, bool residual,
                 Filtering filtering) {
    const int64_t pool = o.pool ? 2 : 1, height = (x[1] + 2 * o.padding - w[0]) / o.stride + 1,
                  width = (x[2] + 2 * o.padding - w[1]) / o.stride + 1;
    const Shape y{x[0], height / pool, width / pool, w[3]};
    const double taps = double(w[0] * w[1]), pixels = double(x[0] * height * width);
    Linear c{name, {}, {Input(x, 1), Input(w, 2), Input({w[3]}, 3)}, y, {}, filtering, true};
    // The sum, the bias, the residual, pooling's two.
    c.quantities = {
        {"y", taps * double(w[2]) + 4}, {"dx", taps * double(w[3]) + 4}, {"dw", pixels + 4}, {"db", pixels}};
    if (residual) {
        c.inputs.emplace_back(y, 4);
        c.quantities.emplace_back("dresidual", 0);
    }
    c.f = [o](const std::vector<Var>& v) {
        ConvOptions options = o;
        if (v.size() > 3) options.residual = v[3];
        return conv2d(v[0], v[1], v[2], options);
    };
    return linear_case(c);
}

void add_convolutions(std::vector<Case>& all) {
    const auto add = [&](const std::string& name, const Shape& x, const Shape& w, const ConvOptions& o,
                         bool residual = false, Filtering filtering = Filtering::none) {
        all.push_back(convolution("conv2d " + name, x, w, o, residual, filtering));
    };
    const ConvOptions same{.padding = 1}, halving{.stride = 2, .padding = 1}, pooled{.padding = 1, .pool = true},
        of_relu{.padding = 1, .relu = true}, of_relu_pooled{.padding = 1, .relu = true, .pool = true};
    add("3x3, 5 to 7 channels", {3, 9, 6, 5}, {3, 3, 5, 7}, same, true);
    add("3x3, 48 to 32", {2, 12, 9, 48}, {3, 3, 48, 32}, same, false, Filtering::winograd);
    add("3x3 of relu, 32 to 32", {2, 8, 8, 32}, {3, 3, 32, 32}, of_relu, true, Filtering::winograd);
    add("3x3 pooled, 5 to 7", {2, 8, 6, 5}, {3, 3, 5, 7}, pooled);
    add("3x3 of relu, pooled, 32 to 48", {2, 16, 8, 32}, {3, 3, 32, 48}, of_relu_pooled, true, Filtering::pooled);
    add("3x3, 3 to 32", {2, 9, 10, 3}, {3, 3, 3, 32}, same);
    add("3x3, 32 to 3", {2, 9, 10, 32}, {3, 3, 32, 3}, same);
    add("4x4 at stride 2, 32 to 48", {2, 8, 12, 32}, {4, 4, 32, 48}, halving);
    add("4x4 at stride 2, 3 to 16", {2, 8, 12, 3}, {4, 4, 3, 16}, halving);
    add("4x4 of a 4x4 image, 48 to 9", {5, 4, 4, 48}, {4, 4, 48, 9}, {});
    add("1x1, 32 to 48", {2, 6, 6, 32}, {1, 1, 32, 48}, {});
    all.push_back(linear_case({"linear, 37 to 75",
                               [](auto& v) { return linear(v[0], v[1], v[2]); },
                               {Input({13, 37}, 1), Input({37, 75}, 2), Input({75}, 3)},
                               {13, 75},
                               {{"y", 38}, {"dx", 75}, {"dw", 13}, {"db", 13}},
                               Filtering::none,
                               true}));
}

// ---- other functions: their magnitudes are written out ------------------------------------------

// One of y and the gradients: its name, its roundings, and its magnitude from the values that f computed.
struct Bounded {
    std::string name;
    double roundings;
    std::function<double(size_t i)> magnitude;
};

Case bounded_case(const std::string& name, const Function& f, const Inputs& inputs, const Input& dy,
                  const std::vector<Bounded>& bounds) {
    return {name, Filtering::none, [=] {
                const std::vector<Doubles> values = forward_and_backward(f, inputs, dy);
                std::vector<Quantity> all;
                for (size_t k = 0; k < values.size(); ++k)
                    all.push_back({bounds[k].name,
                                   values[k],
                                   bounds[k].roundings,
                                   tabulate(values[k].size(), bounds[k].magnitude),
                                   {}});
                return all;
            }};
}

// The exponential, tanh and the sigmoid are off by at most 2 units in the last place, 4 u, here and in every library
// that is used; the quotient x / (1 + e^-x) by 4 u + 2 roundings. For the gradients, with y off by n u, the sums
// 1 - y² and 1 + x (1 - s) on absolute values.
void add_functions(std::vector<Case>& all) {
    const Shape shape{3, 5, 7, 11};
    const Input wide(shape, 1, -4, 4), dy(shape, 1000);
    const auto x = [=](size_t i) { return wide.values[i]; };
    const auto upstream = [=](size_t i) { return std::abs(dy.values[i]); };
    const auto s = [=](size_t i) { return 1 / (1 + std::exp(-x(i))); };
    all.push_back(
        bounded_case("tanh", [](auto& v) { return tanh(v[0]); }, {wide}, dy,
                     {{"y", 4, [=](size_t i) { return std::abs(std::tanh(x(i))); }},
                      {"dx", 11, [=](size_t i) { return upstream(i) * (1 + std::pow(std::tanh(x(i)), 2)); }}}));
    all.push_back(
        bounded_case("swish", [](auto& v) { return swish(v[0]); }, {wide}, dy,
                     {{"y", 7, [=](size_t i) { return std::abs(x(i) * s(i)); }},
                      {"dx", 18, [=](size_t i) { return upstream(i) * s(i) * (1 + std::abs(x(i)) * (1 + s(i))); }}}));
    all.push_back(bounded_case("exp", [](auto& v) { return exp(v[0]); }, {wide}, dy,
                               {{"y", 4, [=](size_t i) { return std::exp(x(i)); }},
                                {"dx", 5, [=](size_t i) { return upstream(i) * std::exp(x(i)); }}}));
}

// Terms of Eq. 15 and its gradients, with e^logvar off by 4 u, d = z - mu by one rounding of itself.
void add_losses(std::vector<Case>& all) {
    const Shape shape{13, 37};
    const Input z(shape, 1), mu(shape, 2), logvar(shape, 3, -3, 1), one({1}, Doubles{1}), eps(shape, 4), dz(shape, 5);
    const double batch = 13;
    const auto variance = [=](size_t i) { return 1e-6 + std::exp(logvar.values[i]); };
    const auto d = [=](size_t i) { return std::abs(z.values[i] - mu.values[i]); };
    const auto ratio = [=](size_t i) { return d(i) * d(i) / variance(i); };
    const auto dmu = [=](size_t i) { return d(i) / variance(i) / batch; };
    const double n = double(z.values.size());
    all.push_back(bounded_case("gaussian_nll", [](auto& v) { return gaussian_nll(v[0], v[1], v[2]); }, {z, mu, logvar},
                               one,
                               {{"y", n + 12,
                                 [=](size_t) {
                                     double total = 0;
                                     for (size_t i = 0; i < z.values.size(); ++i)
                                         total += std::abs(logvar.values[i]) + ratio(i);
                                     return total / 2 / batch;
                                 }},
                                {"dz", 10, dmu},
                                {"dmu", 10, dmu},
                                {"dlogvar", 24, [=](size_t i) { return (1 + ratio(i)) / 2 / batch; }}}));
    const auto scaled = [=](size_t i) { return std::exp(logvar.values[i] / 2) * std::abs(eps.values[i]); };
    all.push_back(bounded_case("reparametrise", [eps](auto& v) { return reparametrise(v[0], v[1], eps.tensor()); },
                               {mu, logvar}, dz,
                               {{"y", 6, [=](size_t i) { return std::abs(mu.values[i]) + scaled(i); }},
                                {"dmu", 0, [=](size_t i) { return std::abs(dz.values[i]); }},
                                {"dlogvar", 7, [=](size_t i) { return scaled(i) * std::abs(dz.values[i]) / 2; }}}));
}

// ---- batch norm ---------------------------------------------------------------------------------

// The magnitudes of y = (x - m) r w + b and its gradients over n rows: m is off by γ_n of A = mean |x|, and r by half
// of what the squares sum to, γ_n. The normalised value then counts as X = (|x| + A) r.
struct BatchNorm {
    Input x, weight, bias;
    size_t columns;
    double rows;
    Doubles mean, average, rstd, unbiased;  // m, A, r and the unbiased variance

    BatchNorm(const Shape& shape, float offset, float spread = 2)
        : x(shape, 1, offset - spread, offset + spread), weight({shape.back()}, 2, 0.5f, 2), bias({shape.back()}, 3),
          columns(size_t(shape.back())), rows(double(x.values.size() / columns)), mean(columns), average(columns),
          rstd(columns), unbiased(columns) {
        for (size_t i = 0; i < x.values.size(); ++i) {
            mean[i % columns] += x.values[i] / rows;
            average[i % columns] += std::abs(x.values[i]) / rows;
        }
        for (size_t i = 0; i < x.values.size(); ++i)
            unbiased[i % columns] += std::pow(x.values[i] - mean[i % columns], 2) / (rows - 1);
        for (size_t c = 0; c < columns; ++c) rstd[c] = 1 / std::sqrt(unbiased[c] * (rows - 1) / rows + 1e-5);
    }
    double normalised(size_t i) const {
        const size_t c = i % columns;
        return (std::abs(x.values[i]) + average[c]) * rstd[c];
    }
    Doubles y() const {
        return tabulate(x.values.size(), [&](size_t i) {
            const size_t c = i % columns;
            return normalised(i) * weight.values[c] + std::abs(bias.values[c]);
        });
    }
    // dx = w r (g - Σg/n - x̂ Σ(g x̂)/n), dweight = Σ g x̂, dbias = Σ g for an upstream gradient of magnitude g.
    std::vector<Doubles> gradients(const Doubles& g) const {
        Doubles dx(g.size()), dweight(columns), dbias(columns);
        for (size_t i = 0; i < g.size(); ++i) {
            dbias[i % columns] += g[i];
            dweight[i % columns] += g[i] * normalised(i);
        }
        for (size_t i = 0; i < g.size(); ++i) {
            const size_t c = i % columns;
            dx[i] = weight.values[c] * rstd[c] * (g[i] + dbias[c] / rows + normalised(i) * dweight[c] / rows);
        }
        return {dx, dweight, dbias};
    }
};

// With the running statistics, in the momentum 0.1.
void add_running(std::vector<Quantity>& all, const BatchNorm& b, const Tensor& mean, const Tensor& var) {
    all.push_back({"running mean",
                   values_of(mean),
                   b.rows + 4,
                   tabulate(b.columns, [&](size_t c) { return 0.1 * b.average[c]; }),
                   {}});
    all.push_back({"running var",
                   values_of(var),
                   b.rows + 8,
                   tabulate(b.columns, [&](size_t c) { return 1 + 0.1 * (b.unbiased[c] + 1); }),
                   {}});
}

Case batch_norm_case(const std::string& name, bool with_relu, float offset, float spread) {
    return {name, Filtering::none, [=] {
                const BatchNorm b({5, 8, 6, 17}, offset, spread);
                const Input dy(b.x.shape, 4);
                const Tensor mean = Tensor::full({17}, 0), var = Tensor::full({17}, 1);
                const auto f = [&](const std::vector<Var>& v) {
                    return with_relu ? batch_norm_relu(v[0], v[1], v[2], mean, var)
                                     : batch_norm(v[0], v[1], v[2], mean, var);
                };
                const std::vector<Doubles> values = forward_and_backward(f, {b.x, b.weight, b.bias}, dy);
                const Doubles g = mapped({dy}, [](double x) { return std::abs(x); })[0].values;
                const std::vector<Doubles> gradients = b.gradients(g);
                std::vector<Quantity> all{{"y", values[0], b.rows + 8, b.y(), {}},
                                          {"dx", values[1], b.rows + 16, gradients[0], {}},
                                          {"dweight", values[2], b.rows + 8, gradients[1], {}},
                                          {"dbias", values[3], b.rows, gradients[2], {}}};
                add_running(all, b, mean, var);
                return all;
            }};
}

// Magnitudes of the convolution of up(u) for u of that magnitude, of a residual likewise: y, u's gradient, dw, db, and
// the residual's.
std::vector<Doubles> behind_norm(const Inputs& u_w_bias_residual, bool upsample, const Input& dy) {
    const auto up = [=](const Var& v) { return upsample ? upsample2(v) : v; };
    return forward_and_backward(
        [=](auto& v) { return conv2d(up(v[0]), v[1], v[2], {.padding = 1, .residual = up(v[3])}); }, u_w_bias_residual,
        dy);
}

// All of it in one op. A sum of the gradient through up() has nine terms with weights of at most 1 that sum to 4, so
// the square of an error in it is at most 4 times the sum on squares.
Case batch_norm_relu_conv2d_case(bool upsample) {
    return {text("batch_norm_relu_conv2d", upsample ? ", upsampled" : ""), Filtering::winograd, [=] {
                const int64_t channels = 16, side = upsample ? 4 : 8;
                const BatchNorm b({3, side, side, channels}, 0.5f);
                const Inputs rest{Input({3, 3, channels, channels}, 5), Input({channels}, 6), Input(b.x.shape, 7)};
                const Input dy({3, 8, 8, channels}, 4);
                const Tensor mean = Tensor::full({channels}, 0), var = Tensor::full({channels}, 1);
                const std::vector<Doubles> values = forward_and_backward(
                    [&](auto& v) {
                        return batch_norm_relu_conv2d(v[0], v[1], v[2], mean, var, 0.1f, v[3], v[4],
                                                      {1, upsample, v[5], upsample});
                    },
                    {b.x, b.weight, b.bias, rest[0], rest[1], rest[2]}, dy);
                std::vector<Doubles> magnitudes(values.size()), squares(values.size());
                const auto of = [&](auto formula, double through_up) {
                    const Inputs mapped_rest = mapped(rest, formula);
                    const Input u(b.x.shape, mapped({Input(b.x.shape, b.y())}, formula)[0].values);
                    const std::vector<Doubles> conv = behind_norm({u, mapped_rest[0], mapped_rest[1], mapped_rest[2]},
                                                                  upsample, mapped({dy}, formula)[0]);
                    Doubles g = conv[1];
                    for (double& value : g) value *= through_up;
                    return std::pair(conv, g);
                };
                const auto [conv, g] = of([](double x) { return std::abs(x); }, 1);
                auto [conv_squares, g_squares] = of([](double x) { return x * x; }, upsample ? 4 : 1);
                for (double& value : g_squares) value = std::sqrt(value);
                for (Doubles* all : {&conv_squares[0], &conv_squares[2], &conv_squares[3]})
                    for (double& value : *all) value = std::sqrt(value);
                const std::vector<Doubles> d = b.gradients(g), e = b.gradients(g_squares);
                // The norm's roundings, then those of up() and of the sum over 9 taps of 16 channels.
                const double behind = 9 * 16 + 20, pixels = 3 * 64;
                std::vector<Quantity> all{{"y", values[0], b.rows + behind, conv[0], conv_squares[0]},
                                          {"dx", values[1], b.rows + 16 + behind, d[0], e[0]},
                                          {"dweight", values[2], b.rows + 8 + behind, d[1], e[1]},
                                          {"dbias", values[3], b.rows + behind, d[2], e[2]},
                                          {"dw", values[4], b.rows + 16 + pixels, conv[2], conv_squares[2]},
                                          {"dconv bias", values[5], pixels, conv[3], {}},
                                          {"dresidual", values[6], 16, conv[4], {}}};
                add_running(all, b, mean, var);
                return all;
            }};
}

// By given statistics: (x - m) is one rounding of itself.
Case batch_norm_inference_case() {
    return {"batch_norm_inference_relu", Filtering::none, [] {
                const Shape shape{3, 4, 5, 17};
                const Input x(shape, 1, -2, 3), weight({17}, 2), bias({17}, 3), mean({17}, 4), var({17}, 5, 0.25f, 2),
                    dy(shape, 6);
                const auto factor = [&](size_t i) {
                    return std::abs(weight.values[i % 17]) / std::sqrt(var.values[i % 17] + 1e-5);
                };
                const std::vector<Doubles> values = forward_and_backward(
                    [&](auto& v) {
                        return batch_norm_inference_relu(v[0], weight.tensor(), bias.tensor(), mean.tensor(),
                                                         var.tensor());
                    },
                    {x}, dy);
                const auto y = [&](size_t i) {
                    return std::abs(x.values[i] - mean.values[i % 17]) * factor(i) + std::abs(bias.values[i % 17]);
                };
                const auto dx = [&](size_t i) { return factor(i) * std::abs(dy.values[i]); };
                return std::vector<Quantity>{{"y", values[0], 8, tabulate(values[0].size(), y), {}},
                                             {"dx", values[1], 8, tabulate(values[1].size(), dx), {}}};
            }};
}

// ---- spectral norm ------------------------------------------------------------------------------

double norm(const Doubles& x) {
    double squares = 0;
    for (const double value : x) squares += value * value;
    return std::sqrt(squares);
}

// y = W x, or Wᵀ x, for W (rows, columns).
Doubles product(const Doubles& w, const Doubles& x, bool transpose, int64_t columns) {
    Doubles y(transpose ? size_t(columns) : w.size() / size_t(columns));
    for (size_t k = 0; k < w.size(); ++k) {
        const size_t row = k / size_t(columns), column = k % size_t(columns);
        if (transpose) y[column] += w[k] * x[row];
        else y[row] += w[k] * x[column];
    }
    return y;
}

Doubles absolute(Doubles x) {
    for (double& value : x) value = std::abs(value);
    return x;
}

// Power iterations v = Wu / ‖Wu‖, u = Wᵀv / ‖Wᵀv‖. In units of γ, the error of v is at most
//   E_v = (‖|W||u|‖ + σ₁ E_u) / ‖Wu‖ + 1
// with σ₁ the largest singular value: the product's own rounding, u's error, and the normalisation; of u likewise.
struct PowerIterations {
    Doubles v, u;
    double sigma = 0, error_sigma = 0, error_v = 0, error_u = 0;

    PowerIterations(const Doubles& w, const Doubles& start, int64_t count) : u(start) {
        const int64_t columns = int64_t(start.size());
        const Doubles w_abs = absolute(w);
        const auto normalise = [](Doubles& x) {
            const double length = norm(x);
            for (double& value : x) value /= length;
            return length;
        };
        Doubles singular = start;
        double largest = 0;
        for (int i = 0; i < 1000; ++i) {
            singular = product(w, product(w, singular, false, columns), true, columns);
            largest = std::sqrt(normalise(singular));
        }
        for (int64_t i = 0; i < count; ++i) {
            const double rounded_v = norm(product(w_abs, absolute(u), false, columns));
            v = product(w, u, false, columns);
            error_v = (rounded_v + largest * error_u) / normalise(v) + 1;
            const double rounded_u = norm(product(w_abs, absolute(v), true, columns));
            u = product(w, v, true, columns);
            sigma = normalise(u);
            error_u = (rounded_u + largest * error_v) / sigma + 1;
        }
        const Doubles terms = product(w_abs, absolute(u), false, columns);
        for (size_t i = 0; i < v.size(); ++i) error_sigma += std::abs(v[i]) * terms[i];
        error_sigma += largest * (error_v + error_u);
    }
};

// y = W / σ with σ = vᵀWu, and dW = (dy - <dy, y> v uᵀ) / σ, after `count` passes.
Case spectral_norm_case(const std::string& name, const Shape& shape, int64_t count) {
    return {name, Filtering::none, [=] {
                const Input w(shape, 1), u0({shape.back()}, 2), dy(shape, 3);
                const int64_t columns = shape.back(), rows = int64_t(w.values.size()) / columns;
                const Tensor u = u0.tensor(), v = Tensor::full({rows}, 0);
                for (int64_t i = 1; i < count; ++i) {
                    const NoGrad no_grad;
                    spectral_norm(Var(w.tensor()), u, v);
                }
                const std::vector<Doubles> values =
                    forward_and_backward([&](auto& at) { return spectral_norm(at[0], u, v); }, {w}, dy);
                const PowerIterations p(w.values, u0.values, count);
                const double relative = 1 + p.error_sigma / p.sigma;
                double inner = 0, squares = 0;  // <|dy|, |y|>, ‖dy‖²
                for (size_t i = 0; i < w.values.size(); ++i) {
                    inner += std::abs(dy.values[i] * w.values[i]) / p.sigma;
                    squares += dy.values[i] * dy.values[i];
                }
                const double error_y = norm(w.values) / p.sigma * relative;
                const auto y = [&](size_t i) { return std::abs(w.values[i]) / p.sigma * relative; };
                const auto dw = [&](size_t i) {
                    const double outer = std::abs(p.v[i / size_t(columns)] * p.u[i % size_t(columns)]);
                    return ((std::abs(dy.values[i]) + inner * outer) * relative + std::sqrt(squares) * error_y * outer +
                            inner * (p.error_v + p.error_u)) /
                           p.sigma;
                };
                const double n = double(rows + columns) + 8;
                return std::vector<Quantity>{
                    {"y", values[0], n, tabulate(w.values.size(), y), {}},
                    {"dw", values[1], n + double(w.values.size()), tabulate(w.values.size(), dw), {}},
                    {"u", values_of(u), n, Doubles(p.u.size(), p.error_u), {}},
                    {"v", values_of(v), n, Doubles(p.v.size(), p.error_v), {}}};
            }};
}

// ---- updates and random numbers -----------------------------------------------------------------

// A kernel's result, for which nothing is differentiated.
Case kernel_case(const std::string& name, std::vector<Bounded> bounds, const std::function<std::vector<Tensor>()>& f) {
    return {name, Filtering::none, [=] {
                std::vector<Quantity> all;
                for (const Tensor& result : f()) {
                    const Bounded& b = bounds[all.size()];
                    all.push_back(
                        {b.name, values_of(result), b.roundings, tabulate(size_t(result.size()), b.magnitude), {}});
                }
                return all;
            }};
}

// Normals from uniforms U and V that are rounded twice: r = sqrt(-2 log U) is off by 2 u / r and four roundings, and
// the angle 2π V by 4π u. Pairs share r.
double normal_error(const Doubles& normals, size_t i) {
    const double r = std::hypot(normals[i / 2 * 2], normals[i / 2 * 2 + 1]);
    return 2 / r + (4 + 4 * 3.1416) * r;
}

void add_random_numbers(std::vector<Case>& all) {
    constexpr int64_t n = 3000;
    constexpr RandomKey key{3, 5, 7};
    all.push_back(kernel_case("uniform", {{"y", 5, [](size_t) { return 2; }}},
                              [] { return std::vector{Tensor::uniform({n}, key, -1, 2)}; }));
    const auto drawn = [] { return values_of(Tensor::normal({n}, key)); };
    all.push_back({"normal", Filtering::none, [=] {
                       const Doubles y = drawn();
                       return std::vector<Quantity>{
                           {"y", y, 1, tabulate(y.size(), [&](size_t i) { return normal_error(y, i); }), {}}};
                   }});
    const Input x({n}, 1), gradient({n}, 2), noise({n}, 3);
    const real half_square = 0.3f, noise_std = 0.2f;
    const auto moved = [=](size_t i) {
        return std::abs(x.values[i]) + double(half_square) * std::abs(gradient.values[i]);
    };
    all.push_back(kernel_case(
        "langevin_update",
        {{"y", 4, [=](size_t i) { return moved(i) + double(noise_std) * std::abs(noise.values[i]); }}}, [=] {
            const Tensor y({n});
            backend().langevin_update(y.data(), x.tensor().data(), gradient.tensor().data(), noise.tensor().data(),
                                      half_square, noise_std, n);
            return std::vector{y};
        }));
    all.push_back({"langevin_update, drawing its noise", Filtering::none, [=] {
                       const Tensor y({n});
                       backend().langevin_update_normal(y.data(), x.tensor().data(), gradient.tensor().data(), key,
                                                        half_square, noise_std, n);
                       const Doubles u = drawn();
                       const auto magnitude = [&](size_t i) {
                           return moved(i) + double(noise_std) * (std::abs(u[i]) + normal_error(u, i));
                       };
                       return std::vector<Quantity>{{"y", values_of(y), 4, tabulate(size_t(n), magnitude), {}}};
                   }});
}

// Adam with the authors' β: 0 and 0.9; from moments that earlier steps left. 1 - β is rounded once more, g twice.
void add_updates(std::vector<Case>& all) {
    constexpr int64_t n = 3000;
    const double rate = 0.01, decay = 0.001, beta1 = 0, beta2 = 0.9, correction2 = 1 - beta2 * beta2;
    const Input w({n}, 1), v({n}, 2, 0.01f, 1), gradient({n}, 3);
    const auto g = [=](size_t i) { return std::abs(gradient.values[i]) + decay * std::abs(w.values[i]); };
    const auto second = [=](size_t i) { return beta2 * v.values[i] + (1 - beta2) * g(i) * g(i); };
    // v is off by 8 roundings of itself, its root by half of that, the quotient by 8 more.
    const auto step = [=](size_t i) { return 3 * rate * g(i) / std::sqrt(second(i) / correction2); };
    all.push_back(kernel_case(
        "adam_update",
        {{"w", 6, [=](size_t i) { return std::abs(w.values[i]) + step(i); }}, {"m", 3, g}, {"v", 8, second}}, [=] {
            const Tensor weight = w.tensor(), m = Tensor::full({n}, 0), squares = v.tensor();
            backend().adam_update(weight.data(), m.data(), squares.data(), gradient.tensor().data(), real(rate), beta1,
                                  beta2, real(1 / std::sqrt(correction2)), real(1e-8), real(decay), n);
            return std::vector{weight, m, squares};
        }));
    all.push_back(kernel_case(
        "ema_update",
        {{"y", 5,
          [=](size_t i) { return 0.999 * std::abs(w.values[i]) + std::abs(gradient.values[i]) * 0.001 + 0.001; }}},
        [=] {
            const Tensor y = w.tensor();
            backend().ema_update(y.data(), gradient.tensor().data(), real(0.999f), n);
            return std::vector{y};
        }));
}

// ---- whole networks -----------------------------------------------------------------------------

using rounding::NetworkCase;
using rounding::Pass;

// Changes values as NetworkCase says.
void disturb(Input& x, double change, uint32_t seed) {
    const Doubles random = random_floats(int64_t(x.values.size()), seed);
    for (size_t i = 0; i < random.size(); ++i) x.values[i] *= 1 + change * random[i];
}
void disturb(Models& models, double change, uint32_t draw) {
    uint32_t seed = 0;
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries()) {
            Input values(entry.value.value().shape(), values_of(entry.value.value()));
            disturb(values, change, 1000 * draw + ++seed);
            entry.value.value().copy_from(values.tensor());
        }
}

// Sets every tensor to float32 numbers: weights of the variance that keeps a layer's values in scale.
void set_parameters(Models& models) {
    uint32_t seed = 0;
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries()) {
            const Shape& shape = entry.value.value().shape();
            const double fan_in = double(element_count(shape)) / double(shape.back());
            const float bound = shape.size() > 1 ? float(std::exp2(std::round(-0.5 * std::log2(fan_in / 3)))) : 0.125f;
            const bool scale = entry.name.find("bn_") != std::string::npos && entry.name.ends_with(".weight");
            ++seed;
            entry.value.value().copy_from(
                (scale ? Input(shape, seed, 0.5f, 1.5f) : Input(shape, seed, -bound, bound)).tensor());
        }
}

void append(Quantity& all, const Doubles& values) { all.value.insert(all.value.end(), values.begin(), values.end()); }

// The gradients of a network's parameters, one after another.
Quantity gradients_of(const std::string& name, const ParameterStore& state) {
    Quantity all{name, {}, rounding::pixels, {}, {}};
    for (const NamedTensor& entry : state.entries())
        if (entry.trainable) append(all, values_of(entry.value.grad()));
    return all;
}

// One of the three, with its names in the files of networks_test.cpp.
struct Network {
    std::string name, prefix, input, input_gradient;
    std::vector<std::string> results;
    std::function<std::vector<Var>(Models&, const Var&)> forward;
    std::function<ParameterStore&(Models&)> state;
};

const Network networks_of_the_method[] = {{"EBM",
                                           "netE.",
                                           "x",
                                           "energy.dx",
                                           {"energy"},
                                           [](Models& m, const Var& x) { return std::vector{m.ebm.forward(x)}; },
                                           [](Models& m) -> ParameterStore& { return m.ebm.state; }},
                                          {"generator",
                                           "netG.",
                                           "z",
                                           "image.dz",
                                           {"image"},
                                           [](Models& m, const Var& z) { return std::vector{m.generator(z)}; },
                                           [](Models& m) -> ParameterStore& { return m.generator.state; }},
                                          {"encoder",
                                           "netI.",
                                           "x",
                                           "encoder.dx",
                                           {"mu", "logvar"},
                                           [](Models& m, const Var& x) {
                                               const auto [mu, logvar] = m.encoder(x);
                                               return std::vector{mu, logvar};
                                           },
                                           [](Models& m) -> ParameterStore& { return m.encoder.state; }}};

// Its results; backwards with upstream(k, shape) for result k, to the input and all parameters.
template <class Upstream>
std::vector<Var> run_network(const Network& network, Models& models, const Var& input, Upstream upstream) {
    std::vector<Var> inputs = network.state(models).parameters();
    inputs.push_back(input);
    const std::vector<Var> results = network.forward(models, input);
    Var loss;
    for (size_t k = 0; k < results.size(); ++k) {
        const Var part = sum(multiply(results[k], Var(upstream(k, results[k].shape()))));
        loss = loss.defined() ? add(loss, part) : part;
    }
    backward(loss, inputs);
    return results;
}

constexpr int64_t batch = 2;

ModelSettings network_settings(const std::string& architecture) {
    const int64_t width = architecture == "celeba64" ? 32 : 16;
    return {architecture, width, width, 8, 7};
}

NetworkCase network_case(const std::string& architecture, const Network& network) {
    return {architecture + " " + network.name, false, [=](double change, uint32_t draw) {
                Models models(network_settings(architecture), 1);
                set_parameters(models);
                disturb(models, change, draw);
                const int64_t side = models.settings.image_size();
                const Var input(network.input == "z" ? Input({batch, 7}, 100, -2, 2).tensor()
                                                     : Input({batch, side, side, 3}, 100).tensor());
                Pass pass;
                const ReluSigns signs(pass.relus);
                Quantity values{"values", {}, 0, {}, {}};
                for (const Var& y : run_network(network, models, input,
                                                [](size_t, const Shape& shape) { return Input(shape, 101).tensor(); }))
                    append(values, values_of(y.value()));
                pass.quantities = {values,
                                   {"input's gradient", values_of(input.grad()), 0, {}, {}},
                                   gradients_of("gradients", network.state(models))};
                pass.values = 1;
                return pass;
            }};
}

// What a pass computed, by its name in the file: results; statistics, u and v afterwards; the input's gradient; of each
// layer the gradients of weight and bias, together, since a bias before batch norm has one that is nothing but
// rounding; all gradients. get(name, layout, tensor) is asked for the values.
template <class Get>
std::vector<Quantity> quantities_of(const Network& network, Models& models, const Var& input,
                                    const std::vector<Var>& results, Get get) {
    std::vector<Quantity> all;
    const auto add = [&](const std::string& name, const Layout& layout, const Tensor& tensor) {
        all.push_back({name, get(name, layout, tensor), 0, {}, {}});
    };
    const auto layout_of = [](const Shape& shape) {
        return shape.size() == 4 ? Layout::image(shape) : Layout::plain(shape);
    };
    for (size_t k = 0; k < results.size(); ++k)
        add(network.results[k], layout_of(results[k].shape()), results[k].value());
    const ParameterStore& state = network.state(models);
    for (const NamedTensor& entry : state.entries())
        if (!entry.trainable && !entry.name.ends_with("num_batches_tracked"))
            add("after." + network.prefix + entry.name, entry.layout, entry.value.value());
    add(network.input_gradient, layout_of(input.shape()), input.grad());
    Quantity gradients{"gradients", all.back().value, rounding::pixels, {}, {}};
    for (const NamedTensor& entry : state.entries()) {
        if (!entry.trainable) continue;
        const std::string name = "grad." + network.prefix + entry.name, layer = name.substr(0, name.rfind('.'));
        const Doubles values = get(name, entry.layout, entry.value.grad());
        if (all.back().name != layer) all.push_back({layer, {}, rounding::pixels, {}, {}});
        append(all.back(), values);
        append(gradients, values);
    }
    all.push_back(gradients);
    return all;
}

NetworkCase stored_case(const std::string& path, const Network& network) {
    return {network.name, false, [=](double change, uint32_t draw) {
                const SafetensorsFile file = read_safetensors(path);
                const auto count = [&](const std::string& key) { return std::stoll(file.metadata.at(key)); };
                Models models({file.metadata.at("architecture"), count("width_generator"), count("width_ebm"),
                               count("width_encoder"), count("latent")},
                              99);
                for (const auto& [prefix, state] : models.networks()) load_state(file, path, prefix, *state);
                disturb(models, change, draw);
                const int64_t side = models.settings.image_size();
                const auto stored = [&](const std::string& name, const Layout& layout) {
                    return Tensor::from_host(layout.memory_shape(), stored_values(file, path, name, layout));
                };
                const Var input(stored(network.input, network.input == "z"
                                                          ? Layout::plain({count("batch"), count("latent")})
                                                          : Layout::image({count("batch"), side, side, 3})));
                Pass pass;
                std::optional<ReluSigns> signs(pass.relus);
                const std::vector<Var> results = run_network(network, models, input, [&](size_t k, const Shape& shape) {
                    return stored("d" + network.results[k],
                                  shape.size() == 4 ? Layout::image(shape) : Layout::plain(shape));
                });
                signs.reset();
                pass.quantities =
                    quantities_of(network, models, input, results,
                                  [](const std::string&, const Layout&, const Tensor& x) { return values_of(x); });
                while (pass.quantities[pass.values].name != network.input_gradient) ++pass.values;
                pass.expected = quantities_of(network, models, input, results,
                                              [&](const std::string& name, const Layout& layout, const Tensor&) {
                                                  return values_of(stored(name, layout));
                                              });
                return pass;
            }};
}

// Two layers of batch norm, ReLU and convolution, each in one op; the second with a residual. With `upsample` the first
// upsamples what it convolves, and the second its residual.
NetworkCase two_layers(int64_t side, bool upsample, bool all_gradients) {
    const std::string name = text("two layers, side ", side, upsample ? ", upsampled" : "");
    return {
        name + (all_gradients ? ", all gradients" : ""), false, [=](double change, uint32_t draw) {
            const int64_t channels = 16;
            const Shape image{7, side, side, channels};
            Inputs inputs{Input(image, 1, -1, 2), Input(image, 2)};
            for (const uint32_t layer : {0, 1}) {
                inputs.emplace_back(Shape{channels}, 3 + layer, 0.5f, 2);
                inputs.emplace_back(Shape{channels}, 5 + layer);
                inputs.emplace_back(Shape{3, 3, channels, channels}, 7 + layer, -0.2f, 0.2f);
                inputs.emplace_back(Shape{channels}, 9 + layer);
            }
            std::vector<Var> leaves;
            for (size_t k = 0; k < inputs.size(); ++k) {
                if (k > 1) disturb(inputs[k], change, 1000 * draw + uint32_t(k));
                leaves.emplace_back(inputs[k].tensor());
            }
            Pass pass;
            const ReluSigns signs(pass.relus);
            const Tensor mean = Tensor::full({channels}, 0), var = Tensor::full({channels}, 1);
            const auto layer = [&](const Var& x, size_t first, const NormReluConvOptions& options) {
                return batch_norm_relu_conv2d(x, leaves[first], leaves[first + 1], mean, var, 0.1f, leaves[first + 2],
                                              leaves[first + 3], options);
            };
            const Var h = layer(leaves[0], 2, {1, upsample, Var(), false}),
                      y = layer(h, 6, {1, false, leaves[1], upsample});
            if (!all_gradients) leaves.resize(1);
            backward(y, leaves, Input(y.shape(), 11).tensor());
            pass.quantities = {{"h", values_of(h.value()), 0, {}, {}},
                               {"y", values_of(y.value()), 0, {}, {}},
                               {"mean", values_of(mean), 0, {}, {}},
                               {"var", values_of(var), 0, {}, {}}};
            pass.values = pass.quantities.size();
            // A convolution's weight and bias together: the first bias's gradient is nothing but rounding.
            for (size_t k = 0; k < leaves.size(); ++k) {
                if (k < 2 || k % 2 == 0)
                    pass.quantities.push_back({text("gradient ", k), {}, double(h.value().size() / channels), {}, {}});
                append(pass.quantities.back(), values_of(leaves[k].grad()));
            }
            return pass;
        }};
}

// A training step with both chains, its noise drawn by the device.
NetworkCase step_case(const std::string& architecture) {
    return {architecture + " training step", true, [=](double change, uint32_t draw) {
                Models models(network_settings(architecture), 1);
                set_parameters(models);
                disturb(models, change, draw);
                StepSettings s;
                s.chain_x = {5, 5, real(0.05f)};
                s.chain_z = {5, real(0.125f), real(0.125f)};
                const int64_t side = models.settings.image_size();
                const Tensor x = Input({batch, side, side, 3}, 100).tensor();
                Pass pass;
                const ReluSigns signs(pass.relus);
                const StepResult out = dual_mcmc_step(models, x, philox_noise(3, 0, x.shape(), 7), s, 1);
                pass.quantities = {{"x-chain's end", values_of(out.x_revised), 0, {}, {}},
                                   {"z-chain's end", values_of(out.z_revised), 0, {}, {}},
                                   gradients_of("EBM's gradients", models.ebm.state),
                                   gradients_of("generator's gradients", models.generator.state),
                                   gradients_of("encoder's gradients", models.encoder.state)};
                return pass;
            }};
}

std::vector<NetworkCase> networks() {
    std::vector<NetworkCase> all;
    for (const std::string architecture : {"cifar10", "celeba64"})
        for (const Network& network : networks_of_the_method) all.push_back(network_case(architecture, network));
    all.push_back(step_case("cifar10"));
    return all;
}

std::vector<NetworkCase> stored_networks(const std::string& path) {
    std::vector<NetworkCase> all;
    for (const Network& network : networks_of_the_method) all.push_back(stored_case(path, network));
    return all;
}

// Side 24, upsampled: groups of one or two images.
std::vector<NetworkCase> layers() {
    std::vector<NetworkCase> all;
    for (const int64_t side : {3, 24})
        for (const bool upsample : {false, true})
            for (const bool all_gradients : {false, true}) all.push_back(two_layers(side, upsample, all_gradients));
    return all;
}

std::vector<Case> cases() {
    std::vector<Case> all;
    add_pointwise(all);
    add_functions(all);
    add_losses(all);
    add_images(all);
    add_convolutions(all);
    all.push_back(batch_norm_case("batch_norm", false, 1, 2));
    all.push_back(batch_norm_case("batch_norm, small variance", false, 0.01f, 0.01f));  // where epsilon counts
    all.push_back(batch_norm_case("batch_norm_relu", true, 1, 2));
    for (const bool upsample : {false, true}) all.push_back(batch_norm_relu_conv2d_case(upsample));
    all.push_back(batch_norm_inference_case());
    all.push_back(spectral_norm_case("spectral_norm", {3, 3, 16, 24}, 1));
    all.push_back(spectral_norm_case("spectral_norm, 20 passes", {3, 3, 16, 24}, 20));
    all.push_back(spectral_norm_case("spectral_norm, one output", {37, 1}, 1));
    add_random_numbers(all);
    add_updates(all);
    return all;
}

}  // namespace

}  // namespace dualmcmc

#ifdef DOUBLE
std::vector<rounding::Case> rounding::cases_in_double() { return dualmcmc::cases(); }
std::vector<rounding::NetworkCase> rounding::networks_in_double() { return dualmcmc::networks(); }
std::vector<rounding::NetworkCase> rounding::layers_in_double() { return dualmcmc::layers(); }
std::vector<rounding::NetworkCase> rounding::stored_networks_in_double(const std::string& path) {
    return dualmcmc::stored_networks(path);
}
#else
std::vector<rounding::Case> rounding::cases_in_float() { return dualmcmc::cases(); }
std::vector<rounding::NetworkCase> rounding::networks_in_float() { return dualmcmc::networks(); }
std::vector<rounding::NetworkCase> rounding::layers_in_float() { return dualmcmc::layers(); }
std::vector<rounding::NetworkCase> rounding::stored_networks_in_float(const std::string& path) {
    return dualmcmc::stored_networks(path);
}
#endif

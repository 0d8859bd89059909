// The differentiable ops: gradients against central differences, values and gradients against PyTorch
// (reference/ops.safetensors); and the tape: only requested gradients, accumulation, no leftovers.
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include "compare.h"
#include "engine/ops.h"
#include "formats/safetensors.h"
#include "rounding.h"

namespace dualmcmc::test {
namespace {

using Function = std::function<Var(const std::vector<Var>&)>;

// One thread: these are thousands of tiny kernels. kernels_test.cpp checks independence of the number of threads.
class Ops : public EachBackend {
    WithThreads one_{1};
};
INSTANTIATE_TEST_SUITE_P(Cpu, Ops, testing::ValuesIn(cpu_backends()), backend_name);
INSTANTIATE_TEST_SUITE_P(Gpu, Ops, testing::ValuesIn(gpu_backends()), backend_name);

// ---- gradients by central differences -----------------------------------------------------------

// The numeric gradient D(h) = <dy, f(x + h e) - f(x - h e)> / 2h is computed in double from outputs in `real`. It is
// off by h² f'''/6, and by the outputs' rounding errors divided by h. D(2h) - D(h) holds three times the first error,
// and the second anew. So its root mean square over the elements of an input is the measure of both. Six of it allow
// any element 18 times the usual first error, and five standard deviations of the second, exceeded once in two million.
// The gradient itself is off by a few u. Outputs that are larger than most are rounded more than most: so each element
// is also allowed one rounding of all outputs that it changes, the root of the sum of their squares.
//
// A polynomial of degree two in each input has f''' = 0, so that h may be large. Elsewhere h = u^(1/3) makes both
// errors about equal.
constexpr double polynomial = 0.25, curved = in_double ? 0x1p-17 : 0x1p-8;

void expect_gradients(const std::string& what, const Function& function, const std::vector<Tensor>& inputs, double h) {
    std::vector<Var> leaves;
    for (const Tensor& input : inputs) leaves.emplace_back(input.clone());
    const Var y = function(leaves);
    const Tensor dy = random_tensor(y.shape(), 1000);
    const Values upstream = dy.to_host();
    backward(y, leaves, dy);
    for (size_t k = 0; k < inputs.size(); ++k) {
        const std::string name = what + ", input " + std::to_string(k);
        ASSERT_TRUE(leaves[k].grad().defined()) << name;
        EXPECT_EQ(leaves[k].grad().shape(), inputs[k].shape()) << name;
        const Values gradient = leaves[k].grad().to_host(), x = inputs[k].to_host();
        const NoGrad no_grad;
        const auto numeric = [&](size_t i, double step) {
            Values moved[2] = {x, x};  // as rounded to real
            moved[0][i] += real(step);
            moved[1][i] -= real(step);
            Values out[2];
            for (const int side : {0, 1}) {
                std::vector<Var> at;
                for (size_t j = 0; j < inputs.size(); ++j)
                    at.emplace_back(j == k ? Tensor::from_host(inputs[j].shape(), moved[side]) : inputs[j]);
                out[side] = function(at).value().to_host();
            }
            double difference = 0, squares = 0;
            for (size_t j = 0; j < upstream.size(); ++j) {
                if (out[0][j] == out[1][j]) continue;
                difference += upstream[j] * (double(out[0][j]) - double(out[1][j]));
                squares += std::pow(double(upstream[j]) * (std::abs(out[0][j]) + std::abs(out[1][j])), 2);
            }
            const double width = double(moved[0][i]) - double(moved[1][i]);
            return rounding::Running(difference / width, std::sqrt(squares) / width);
        };
        std::vector<rounding::Running> expected;
        double squares = 0;
        for (size_t i = 0; i < x.size(); ++i) {
            expected.push_back(numeric(i, h));
            squares += std::pow(numeric(i, 2 * h).value - expected[i].value, 2) / double(x.size());
        }
        for (rounding::Running& value : expected)
            value.error += 4 * std::abs(value.value) + 6 * std::sqrt(squares) / (in_double ? 2 * unit : unit);
        expect_close(gradient, expected, name);
    }
}

// Values further from 0, relu's kink, than the step size.
Tensor away_from_zero(const Shape& shape, uint32_t seed) {
    Values values = random_values(element_count(shape), seed);
    for (real& value : values) value += value < 0 ? -0.1f : 0.1f;
    return Tensor::from_host(shape, values);
}

TEST_P(Ops, elementwise_gradients) {
    const Shape shape{2, 5, 3, 7};
    const Tensor a = random_tensor(shape, 1, -2, 2), b = random_tensor(shape, 2, -2, 2),
                 kinked = away_from_zero(shape, 3);
    expect_gradients(
        "add", [](auto& v) { return add(v[0], v[1]); }, {a, b}, polynomial);
    expect_gradients(
        "multiply", [](auto& v) { return multiply(v[0], v[1]); }, {a, b}, polynomial);
    expect_gradients(
        "scale", [](auto& v) { return scale(v[0], -1.7f); }, {a}, polynomial);
    expect_gradients(
        "leaky_relu", [](auto& v) { return leaky_relu(v[0], 0.2f); }, {kinked}, curved);
    expect_gradients(
        "relu", [](auto& v) { return relu(v[0]); }, {kinked}, curved);
    expect_gradients(
        "tanh", [](auto& v) { return tanh(v[0]); }, {a}, curved);
    expect_gradients(
        "swish", [](auto& v) { return swish(v[0]); }, {a}, curved);
    expect_gradients(
        "exp", [](auto& v) { return exp(v[0]); }, {a}, curved);
    expect_gradients(
        "reshape",
        [](auto& v) {
            return reshape(v[0], {7, 30});
        },
        {a}, polynomial);
}

TEST_P(Ops, reduction_gradients) {
    const Tensor x = random_tensor({3, 4, 2, 5}, 1), r = random_tensor({3, 4, 2, 5}, 2);
    expect_gradients(
        "sum", [](auto& v) { return sum(v[0]); }, {x}, polynomial);
    expect_gradients(
        "mean", [](auto& v) { return mean(v[0]); }, {x}, polynomial);
    expect_gradients(
        "squared_error", [](auto& v) { return squared_error(v[0], v[1]); }, {x, r}, polynomial);
    const Tensor z = random_tensor({3, 7}, 3), mu = random_tensor({3, 7}, 4), logvar = random_tensor({3, 7}, 5);
    const Tensor eps = random_tensor({3, 7}, 6);
    expect_gradients(
        "gaussian_nll", [](auto& v) { return gaussian_nll(v[0], v[1], v[2]); }, {z, mu, logvar}, curved);
    expect_gradients(
        "reparametrise", [eps](auto& v) { return reparametrise(v[0], v[1], eps); }, {mu, logvar}, curved);
}

TEST_P(Ops, image_gradients) {
    expect_gradients(
        "avg_pool2", [](auto& v) { return avg_pool2(v[0]); }, {random_tensor({3, 4, 2, 5}, 1)}, polynomial);
    expect_gradients(
        "global_avg_pool", [](auto& v) { return global_avg_pool(v[0]); }, {random_tensor({2, 3, 4, 5}, 1)}, polynomial);
    expect_gradients(
        "upsample2", [](auto& v) { return upsample2(v[0]); }, {random_tensor({2, 3, 4, 5}, 1)}, polynomial);
    expect_gradients(
        "upsample2 of one row", [](auto& v) { return upsample2(v[0]); }, {random_tensor({2, 1, 4, 3}, 1)}, polynomial);
}

TEST_P(Ops, convolution_gradients) {
    for (const int64_t kernel : {1, 3, 4})
        for (const int64_t stride : {1, 2})
            for (const int64_t padding : {0, 1}) {
                const Tensor x = random_tensor({2, 5, 4, 3}, 1), w = random_tensor({kernel, kernel, 3, 6}, 2),
                             bias = random_tensor({6}, 3);
                const std::string what = text("conv2d, kernel ", kernel, ", stride ", stride, ", padding ", padding);
                expect_gradients(
                    what, [=](auto& v) { return conv2d(v[0], v[1], v[2], {.stride = stride, .padding = padding}); },
                    {x, w, bias}, polynomial);
                expect_gradients(
                    what + ", no bias",
                    [=](auto& v) { return conv2d(v[0], v[1], Var(), {.stride = stride, .padding = padding}); }, {x, w},
                    polynomial);
            }
    const Tensor image = random_tensor({2, 6, 4, 3}, 1), w = random_tensor({3, 3, 3, 5}, 2);
    const ConvOptions pooled{.padding = 1, .pool = true};
    expect_gradients(
        "conv2d, pooled", [=](auto& v) { return conv2d(v[0], v[1], Var(), pooled); }, {image, w}, polynomial);
    const Tensor skip = random_tensor({2, 3, 2, 5}, 4), same = random_tensor({3, 3, 3, 3}, 5);
    expect_gradients(
        "conv2d, pooled, residual",
        [](auto& v) { return conv2d(v[0], v[1], Var(), {.padding = 1, .pool = true, .residual = v[2]}); },
        {image, w, skip}, polynomial);
    expect_gradients(
        "conv2d, its own residual", [](auto& v) { return conv2d(v[0], v[1], Var(), {.padding = 1, .residual = v[0]}); },
        {image, same}, polynomial);
    // x feeds three ops, whose gradients accumulate in any order.
    expect_gradients(
        "conv2d, x used twice more",
        [](auto& v) {
            return add(multiply(v[0], v[0]), conv2d(conv2d(v[0], v[1], Var(), {.padding = 1}), v[1], Var(),
                                                    {.padding = 1, .residual = v[0]}));
        },
        {image, same}, curved);
    expect_gradients(
        "conv2d of relu(x)",
        [](auto& v) { return conv2d(v[0], v[1], Var(), {.padding = 1, .relu = true, .residual = v[0]}); },
        {away_from_zero({2, 6, 4, 3}, 6), same}, curved);
    const Tensor x = random_tensor({3, 11}, 1), matrix = random_tensor({11, 7}, 2), bias = random_tensor({7}, 3);
    expect_gradients(
        "linear", [](auto& v) { return linear(v[0], v[1], v[2]); }, {x, matrix, bias}, polynomial);
    expect_gradients(
        "linear, no bias", [](auto& v) { return linear(v[0], v[1], Var()); }, {x, matrix}, polynomial);
}

TEST_P(Ops, batch_norm_gradients) {
    const auto function = [](const std::vector<Var>& v) {
        return batch_norm(v[0], v[1], v[2], Tensor::full({5}, 0), Tensor::full({5}, 1));
    };
    const Tensor weight = random_tensor({5}, 2), bias = random_tensor({5}, 3);
    expect_gradients("batch_norm of images", function, {random_tensor({2, 4, 3, 5}, 1, -1, 4), weight, bias}, curved);
    expect_gradients("batch_norm of a matrix", function, {random_tensor({7, 5}, 1, -1, 4), weight, bias}, curved);
}

TEST_P(Ops, batch_norm_relu_equals_relu_of_batch_norm) {
    const auto run = [](bool fused) {
        const Var x(random_tensor({2, 4, 3, 5}, 1, -1, 4)), weight(random_tensor({5}, 2)), bias(random_tensor({5}, 3));
        const Tensor mean = Tensor::full({5}, 0), var = Tensor::full({5}, 1);
        const Var y =
            fused ? batch_norm_relu(x, weight, bias, mean, var) : relu(batch_norm(x, weight, bias, mean, var));
        backward(y, {x, weight, bias}, random_tensor({2, 4, 3, 5}, 4));
        return std::vector{y.value().to_host(), x.grad().to_host(), weight.grad().to_host(), bias.grad().to_host()};
    };
    EXPECT_EQ(run(true), run(false));
}

// Two layers, the first of which may read the second's gradient in slices of the batch, against double precision:
// within what rounding makes of them (rounding.h). A sum has 9 taps of 16 channels. Winograd's F(4, 3) adds a ninth as
// many products, 10.8 times as large in the mean over its outputs (rounding_test.cpp): as if n were 13 times as large.
TEST_P(Ops, batch_norm_relu_conv2d_in_two_layers) {
    static const std::vector<rounding::NetworkCase> exact = rounding::layers_in_double();
    static std::map<size_t, rounding::Condition> conditions;
#ifdef DOUBLE
    const std::vector<rounding::NetworkCase>& own = exact;
#else
    const std::vector<rounding::NetworkCase> own = rounding::layers_in_float();
#endif
    for (size_t i = 0; i < own.size(); ++i) {
        rounding::Condition& condition = conditions.try_emplace(i, exact[i].run, 13 * 9 * 16).first->second;
        const rounding::Pass found = own[i].run(0, 0);
        const int64_t crossed = crossings(found, condition.exact);
        const std::vector<double> bounds = condition.bounds(unit, input_unit(backend()), crossed);
        ASSERT_EQ(found.quantities.size(), bounds.size());
        for (size_t k = 0; k < bounds.size(); ++k) {
            EXPECT_LE(distance(found.quantities[k], condition.exact.quantities[k]), bounds[k])
                << own[i].name << ", " << found.quantities[k].name << ", " << crossed << " ReLUs across their kink";
        }
    }
}

TEST_P(Ops, batch_norm_inference_relu_gradients) {
    const Tensor weight = random_tensor({5}, 2), bias = Tensor::full({5}, 0), mean = random_tensor({5}, 3),
                 var = random_tensor({5}, 4, 0.5f, 2);
    Values x = away_from_zero({2, 4, 3, 5}, 1).to_host();  // away from the mean, the kink
    for (size_t i = 0; i < x.size(); ++i) x[i] += mean.to_host()[i % 5];
    expect_gradients(
        "batch_norm_inference_relu", [&](auto& v) { return batch_norm_inference_relu(v[0], weight, bias, mean, var); },
        {Tensor::from_host({2, 4, 3, 5}, x)}, curved);
}

// At the leading singular vectors σ is stationary in u and v, so the central difference, which includes a power
// iteration, equals the gradient for constant u and v up to h². Hence converge u and v first, and evaluate on copies.
TEST_P(Ops, spectral_norm_gradients) {
    for (const Shape& shape : {Shape{3, 3, 2, 5}, Shape{7, 4}, Shape{11, 1}}) {
        const Tensor w = random_tensor(shape, 1);
        const int64_t columns = shape.back(), rows = w.size() / columns;
        const Tensor u = random_tensor({columns}, 2), v = random_tensor({rows}, 3);
        {
            const NoGrad no_grad;
            for (int pass = 0; pass < 300; ++pass) spectral_norm(Var(w), u, v);
        }
        const auto function = [&](const std::vector<Var>& at) { return spectral_norm(at[0], u.clone(), v.clone()); };
        expect_gradients("spectral_norm " + to_string(shape), function, {w}, curved);
    }
}

// ---- values of the ops that are not in the reference below --------------------------------------

TEST_P(Ops, values) {
    const Shape shape{2, 5, 3, 7};
    const NoGrad no_grad;
    const Var a(random_tensor(shape, 1)), b(random_tensor(shape, 2));
    const Values x = a.value().to_host(), r = b.value().to_host();
    std::vector<double> sums, products, multiples;
    rounding::RandomSum total;
    for (size_t i = 0; i < x.size(); ++i) {
        sums.push_back(double(x[i]) + r[i]);
        products.push_back(double(x[i]) * r[i]);
        multiples.push_back(-1.7f * double(x[i]));
        total.add(double(x[i]));
    }
    // One rounding each; the sum is one of terms added in double.
    expect_close(add(a, b).value(), sums, unit, 0, "add");
    expect_close(multiply(a, b).value(), products, unit, 0, "multiply");
    expect_close(scale(a, -1.7f).value(), multiples, unit, 0, "scale");
    expect_close(sum(a).value().to_host(), {1 * total.in_double(unit)}, "sum");
    expect_close(dualmcmc::mean(a).value().to_host(), {total.in_double(unit) * rounding::rounded(1 / 210.0)}, "mean");
    const Var reshaped = reshape(a, {7, 30});
    EXPECT_EQ(to_string(reshaped.shape()), "(7, 30)");
    EXPECT_EQ(reshaped.value().to_host(), x);
}

// ---- against PyTorch ----------------------------------------------------------------------------

// A case of the file, with its tensors in this program's layouts. Records which of them were read.
class Case {
public:
    Case(const SafetensorsFile& file, const std::string& name)
        : file_(file), name_(name), op_(file.metadata.at(name + ".op")) {}

    const std::string& name() const { return name_; }
    const std::string& op() const { return op_; }
    bool has(const std::string& what) const { return file_.tensors.contains(name_ + "." + what); }
    int64_t attribute(const std::string& what) const { return std::stoll(file_.metadata.at(name_ + "." + what)); }
    const std::set<std::string>& used() const { return used_; }

    Tensor get(const std::string& what) {
        const std::string key = name_ + "." + what;
        used_.insert(key);
        const StoredTensor& stored = file_.tensors.at(key);
        const Values values = values_of<real>(stored, key);
        const Shape& s = stored.shape;
        const bool spectral = op_ == "spectral_norm";
        const bool weight = spectral || what == "w" || what == "dw";  // spectral_norm: all 2-D and 4-D tensors
        if (s.size() == 4 && weight)
            return Tensor::from_host({s[2], s[3], s[1], s[0]}, oihw_to_hwio(values, s[0], s[1], s[2], s[3]));
        if (s.size() == 4)
            return Tensor::from_host({s[0], s[2], s[3], s[1]}, nchw_to_nhwc(values, s[0], s[1], s[2], s[3]));
        if (s.size() == 2 && weight && (spectral || op_ == "linear"))
            return Tensor::from_host({s[1], s[0]}, transposed(values, s[0], s[1]));
        if (spectral && what[0] == 'v') {  // in the order (in, kh, kw); ours is (kh, kw, in)
            const Shape& w = file_.tensors.at(name_ + ".w").shape;
            if (w.size() == 4) return Tensor::from_host(s, oihw_to_hwio(values, 1, w[1], w[2], w[3]));
        }
        return Tensor::from_host(s, values);
    }

    // Sums of up to n = 360 products are off by at most 8 sqrt(n) u = 152 u of the sum on absolute values, except with
    // a probability of 3e-14 (rounding.h). Their terms are of one size, so that this is sqrt(n) times a typical value
    // at most, and rounding that grows to it would take all terms at their largest; without that factor, relative to
    // each value plus the root mean square, it still is 28 standard deviations of the sum's rounding, sqrt(n) 0.29 u.
    void expect(const Tensor& actual, const std::string& what) {
        const double tolerance = 8 * std::sqrt(360.0) * unit;
        const Tensor expected = get(what);
        double squares = 0;
        for (const real value : expected.to_host()) squares += double(value) * value;
        expect_close(actual, expected, tolerance, tolerance * std::sqrt(squares / double(expected.size())),
                     name_ + "." + what);
    }

private:
    const SafetensorsFile& file_;
    std::string name_, op_;
    std::set<std::string> used_;
};

// Compares y and the gradients of all `inputs` with the reference.
void expect_reference(Case& c, const std::vector<std::string>& inputs, const Function& function) {
    std::vector<Var> leaves;
    for (const std::string& input : inputs) leaves.emplace_back(c.get(input));
    const Var y = function(leaves);
    c.expect(y.value(), "y");
    backward(y, leaves, c.get("dy"));
    for (size_t k = 0; k < inputs.size(); ++k) c.expect(leaves[k].grad(), "d" + inputs[k]);
}

std::vector<std::string> with_bias(const Case& c) {
    return c.has("b") ? std::vector<std::string>{"x", "w", "b"} : std::vector<std::string>{"x", "w"};
}
Var bias_of(const std::vector<Var>& v) { return v.size() > 2 ? v[2] : Var(); }

using Running = std::function<Var(const std::vector<Var>&, const Tensor& mean, const Tensor& var)>;

void expect_batch_norm(Case& c, const std::vector<std::string>& inputs, const Running& function) {
    const Tensor mean = c.get("running_mean"), var = c.get("running_var");
    expect_reference(c, inputs, [&](auto& v) { return function(v, mean, var); });
    c.expect(mean, "after_running_mean");
    c.expect(var, "after_running_var");
}

// Another forward pass advances u and v before backward: the gradient must use those of its own pass.
void expect_spectral_norm(Case& c) {
    const Var w(c.get("w"));
    const Tensor u = c.get("u0"), v = c.get("v0");
    for (int64_t count = 1; count <= c.attribute("count"); ++count) {
        const std::string pass = std::to_string(count);
        const Var y = spectral_norm(w, u, v);
        if (!c.has("y" + pass)) continue;
        c.expect(y.value(), "y" + pass);
        c.expect(u, "u" + pass);
        c.expect(v, "v" + pass);
        // The op does not return σ: recover it as W / y at W's largest element.
        const Values all = w.value().to_host(), divided = y.value().to_host();
        size_t largest = 0;
        for (size_t i = 0; i < all.size(); ++i)
            if (std::abs(all[i]) > std::abs(all[largest])) largest = i;
        c.expect(Tensor::from_host({1}, {all[largest] / divided[largest]}), "sigma" + pass);
        w.clear_grad();
        const Tensor u_now = u.clone(), v_now = v.clone();
        {
            const NoGrad no_grad;
            spectral_norm(w, u, v);
        }
        backward(y, {w}, c.get("dy" + pass));
        c.expect(w.grad(), "dw" + pass);
        u.copy_from(u_now);
        v.copy_from(v_now);
    }
}

using ReferenceTests = std::map<std::string, std::function<void(Case&)>>;

ReferenceTests reference_tests_of_layers() {
    return {
        {"conv2d",
         [](Case& c) {
             const int64_t stride = c.attribute("stride"), padding = c.attribute("padding");
             expect_reference(c, with_bias(c), [&](auto& v) {
                 return conv2d(v[0], v[1], bias_of(v), {.stride = stride, .padding = padding});
             });
         }},
        {"conv_avg_pool",
         [](Case& c) {
             expect_reference(c, {"x", "w"},
                              [](auto& v) { return conv2d(v[0], v[1], Var(), {.padding = 1, .pool = true}); });
             expect_reference(c, {"x", "w"},
                              [](auto& v) { return avg_pool2(conv2d(v[0], v[1], Var(), {.padding = 1})); });
         }},
        {"linear",
         [](Case& c) { expect_reference(c, with_bias(c), [](auto& v) { return linear(v[0], v[1], bias_of(v)); }); }},
        {"batch_norm",
         [](Case& c) {
             expect_batch_norm(c, {"x", "weight", "bias"}, [](auto& v, const Tensor& mean, const Tensor& var) {
                 return batch_norm(v[0], v[1], v[2], mean, var);
             });
         }},
        {"batch_norm_relu",
         [](Case& c) {
             expect_batch_norm(c, {"x", "weight", "bias"}, [](auto& v, const Tensor& mean, const Tensor& var) {
                 return batch_norm_relu(v[0], v[1], v[2], mean, var);
             });
         }},
        {"batch_norm_relu_conv2d",
         [](Case& c) {
             const bool upsample = c.attribute("upsample") == 1;
             expect_batch_norm(c, {"x", "weight", "bias", "w", "b", "r"},
                               [=](auto& v, const Tensor& mean, const Tensor& var) {
                                   return batch_norm_relu_conv2d(v[0], v[1], v[2], mean, var, 0.1, v[3], v[4],
                                                                 {1, upsample, v[5], upsample});
                               });
         }},
        {"batch_norm_inference_relu",
         [](Case& c) {
             const Tensor weight = c.get("weight"), bias = c.get("bias"), mean = c.get("running_mean"),
                          var = c.get("running_var");
             expect_reference(c, {"x"},
                              [&](auto& v) { return batch_norm_inference_relu(v[0], weight, bias, mean, var); });
         }},
        {"avg_pool2", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return avg_pool2(v[0]); }); }},
        {"global_avg_pool", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return global_avg_pool(v[0]); }); }},
        {"upsample2", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return upsample2(v[0]); }); }},
        {"spectral_norm", expect_spectral_norm},
    };
}

ReferenceTests reference_tests_of_functions() {
    return {
        {"swish", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return swish(v[0]); }); }},
        {"scale", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return scale(v[0], -1.75); }); }},
        {"sum", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return sum(v[0]); }); }},
        {"mean", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return dualmcmc::mean(v[0]); }); }},
        {"add",
         [](Case& c) {
             expect_reference(c, {"x", "r"}, [](auto& v) { return add(v[0], v[1]); });
         }},
        {"multiply",
         [](Case& c) {
             expect_reference(c, {"x", "r"}, [](auto& v) { return multiply(v[0], v[1]); });
         }},
        {"sum_squared_error",
         [](Case& c) {
             expect_reference(c, {"x", "r"}, [](auto& v) { return sum_squared_error(v[0], v[1]); });
         }},
        {"relu", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return relu(v[0]); }); }},
        {"leaky_relu",
         [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return leaky_relu(v[0], real(0.2)); }); }},
        {"tanh", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return tanh(v[0]); }); }},
        {"exp", [](Case& c) { expect_reference(c, {"x"}, [](auto& v) { return exp(v[0]); }); }},
        {"squared_error",
         [](Case& c) {
             expect_reference(c, {"x", "r"}, [](auto& v) { return squared_error(v[0], v[1]); });
         }},
        {"gaussian_nll",
         [](Case& c) {
             expect_reference(c, {"z", "mu", "logvar"}, [](auto& v) { return gaussian_nll(v[0], v[1], v[2]); });
         }},
        {"reparametrise",
         [](Case& c) {
             const Tensor eps = c.get("eps");
             expect_reference(c, {"mu", "logvar"}, [&](auto& v) { return reparametrise(v[0], v[1], eps); });
         }},
    };
}

const ReferenceTests& reference_tests() {
    static const ReferenceTests tests = [] {
        ReferenceTests all = reference_tests_of_layers();
        all.merge(reference_tests_of_functions());
        return all;
    }();
    return tests;
}

// Every case and every tensor of the file must be used, and every test above must have a case.
TEST_P(Ops, agree_with_pytorch) {
    const SafetensorsFile file = read_safetensors("reference/ops.safetensors");
    std::set<std::string> untouched, ops;
    for (const auto& entry : file.tensors) untouched.insert(entry.first);
    std::istringstream names(file.metadata.at("cases"));
    for (std::string name; names >> name;) {
        Case c(file, name);
        ops.insert(c.op());
        const auto test = reference_tests().find(c.op());
        if (test == reference_tests().end()) {
            ADD_FAILURE() << name << ": no test for " << c.op();
            continue;
        }
        test->second(c);
        for (const std::string& used : c.used()) untouched.erase(used);
    }
    for (const std::string& key : untouched) ADD_FAILURE() << key << " was not compared";
    for (const auto& test : reference_tests())
        EXPECT_TRUE(ops.contains(test.first)) << "the reference has no case for " << test.first;
}

// ---- the tape -----------------------------------------------------------------------------------

Var leaf(const Shape& shape, uint32_t seed) { return Var(random_tensor(shape, seed)); }

std::vector<double> scaled(const Tensor& x, double factor) {
    const Values values = x.to_host();
    std::vector<double> out(values.begin(), values.end());
    for (double& value : out) value *= factor;
    return out;
}

TEST(Tape, only_requested_leaves_get_gradients) {
    const Var x = leaf({2, 5, 4, 3}, 1), w = leaf({3, 3, 3, 6}, 2), bias = leaf({6}, 3), unrelated = leaf({7}, 4);
    const auto loss = [&] { return sum(tanh(conv2d(x, w, bias, {.padding = 1}))); };
    backward(loss(), {x});
    EXPECT_TRUE(x.grad().defined());
    EXPECT_FALSE(w.grad().defined());
    EXPECT_FALSE(bias.grad().defined());
    const Tensor dx = x.grad();
    x.clear_grad();
    EXPECT_FALSE(x.grad().defined());
    backward(loss(), {w, bias, unrelated});
    EXPECT_FALSE(x.grad().defined()) << "requested in the previous call, not in this one";
    EXPECT_TRUE(w.grad().defined());
    EXPECT_TRUE(bias.grad().defined());
    EXPECT_FALSE(unrelated.grad().defined()) << "the loss does not depend on it";
    const Tensor dw = w.grad(), dbias = bias.grad();
    for (const Var& v : {w, bias}) v.clear_grad();
    backward(loss(), {x, w, bias});
    for (const auto& [together, alone] : {std::pair{x.grad(), dx}, {w.grad(), dw}, {bias.grad(), dbias}})
        expect_close(together, alone, 0, 0, "requested together and alone");
}

TEST(Tape, backward_without_requested_gradients) {
    const Var x = leaf({3, 2}, 1);
    backward(sum(exp(x)), {});
    EXPECT_FALSE(x.grad().defined());
    EXPECT_EQ(tape_size(), 0);
}

TEST(Tape, each_input_of_each_op_can_be_requested_alone) {
    const Var a = leaf({3, 5}, 1), b = leaf({3, 5}, 2), c = leaf({3, 5}, 3), w = leaf({5, 4}, 4), bias = leaf({4}, 5),
              weight = leaf({5}, 6), shift = leaf({5}, 7);
    const Tensor eps = random_tensor({3, 5}, 8);
    const std::pair<std::vector<Var>, std::function<Var()>> cases[] = {
        {{a, b}, [&] { return sum(add(a, b)); }},
        {{a, b}, [&] { return sum(multiply(a, b)); }},
        {{a, b}, [&] { return squared_error(a, b); }},
        {{a, b, c}, [&] { return gaussian_nll(a, b, c); }},
        {{a, b}, [&] { return sum(reparametrise(a, b, eps)); }},
        {{a, w, bias}, [&] { return sum(linear(a, w, bias)); }},
        {{a, weight, shift},
         [&] { return sum(exp(batch_norm(a, weight, shift, Tensor::full({5}, 0), Tensor::full({5}, 1)))); }},
    };
    for (const auto& [inputs, loss] : cases) {
        backward(loss(), inputs);
        std::vector<Tensor> together;
        for (const Var& v : inputs) together.push_back(v.grad()), v.clear_grad();
        for (size_t k = 0; k < inputs.size(); ++k) {
            backward(loss(), {inputs[k]});
            for (size_t j = 0; j < inputs.size(); ++j)
                EXPECT_EQ(inputs[j].grad().defined(), j == k) << "input " << j << ", requested " << k;
            expect_close(inputs[k].grad(), together[k], 0, 0, "input " + std::to_string(k));
            inputs[k].clear_grad();
        }
    }
}

TEST(Tape, gradients_accumulate_over_calls) {
    const Var x = leaf({3, 7}, 1);
    backward(sum(multiply(x, x)), {x});
    const Tensor held = x.grad();
    expect_close(held, scaled(x.value(), 2), 0, 0, "one call");
    backward(sum(scale(x, 3)), {x});
    std::vector<double> expected = scaled(x.value(), 2);
    for (double& value : expected) value += 3;
    expect_close(x.grad(), expected, unit, 0, "two calls");
    expect_close(held, scaled(x.value(), 2), 0, 0, "a gradient held by the caller does not change");
    x.clear_grad();
    backward(sum(scale(x, 3)), {x});
    expect_close(x.grad(), std::vector<double>(21, 3), 0, 0, "cleared");
}

TEST(Tape, a_variable_used_twice_gets_both_gradients) {
    const Var a = leaf({3, 7}, 1), b = leaf({3, 7}, 2);
    const Tensor dy = random_tensor({3, 7}, 3);
    backward(add(a, a), {a}, dy);
    expect_close(a.grad(), scaled(dy, 2), 0, 0, "a + a");
    a.clear_grad();
    backward(multiply(a, a), {a}, dy);
    const Values values = a.value().to_host(), upstream = dy.to_host();
    std::vector<double> expected(values.size());
    for (size_t i = 0; i < expected.size(); ++i) expected[i] = 2.0 * values[i] * upstream[i];
    expect_close(a.grad(), expected, unit, 0, "a a");  // a dy is rounded, its double not
    a.clear_grad();
    // Both get the same gradient: accumulating into one must change neither the other nor the caller's dy.
    backward(add(add(a, b), a), {a, b}, dy);
    expect_close(a.grad(), scaled(dy, 2), 0, 0, "(a + b) + a, a");
    expect_close(b.grad(), scaled(dy, 1), 0, 0, "(a + b) + a, b");
    expect_close(dy, upstream, 0, 0, "grad_output");
    // An intermediate value used twice, once on a longer path.
    for (const Var& v : {a, b}) v.clear_grad();
    const Var square = multiply(a, a);
    backward(sum(add(square, scale(reshape(reshape(square, {7, 3}), {3, 7}), 2))), {a});
    expect_close(a.grad(), scaled(a.value(), 6), unit, 0, "3 a²");
}

TEST(Tape, backward_starts_with_ones_and_skips_later_ops) {
    const Var x = leaf({3, 7}, 1);
    const Var y = scale(x, 5), later = exp(y);
    backward(y, {x});
    expect_close(x.grad(), std::vector<double>(21, 5), 0, 0, "d Σ 5 x");
    EXPECT_TRUE(later.defined());
}

TEST(Tape, is_empty_after_backward) {
    EXPECT_EQ(tape_size(), 0);
    const Var x = leaf({3, 7}, 1);
    const Var y = sum(tanh(scale(x, 2)));
    EXPECT_EQ(tape_size(), 3);
    backward(y, {x});
    EXPECT_EQ(tape_size(), 0);
    EXPECT_FALSE(y.grad().defined()) << "gradients of intermediate values are freed";
    EXPECT_FALSE(x.requires_grad()) << "only during the call";
}

TEST(Tape, records_nothing_under_no_grad) {
    const Var x = leaf({3, 7}, 1);
    {
        const NoGrad outer;
        {
            const NoGrad inner;
            tanh(x);
        }
        const Var y = tanh(x);
        EXPECT_EQ(tape_size(), 0) << "the end of the inner NoGrad must not resume recording";
        EXPECT_THROW(backward(sum(y), {x}), std::runtime_error);
    }
    const Var constant = [&] {
        const NoGrad no_grad;
        return scale(x, 3);
    }();
    const Var y = sum(multiply(x, constant));
    EXPECT_EQ(tape_size(), 2);
    backward(y, {x});
    expect_close(x.grad(), constant.value().to_host(), 0, 0, "no gradient flows through unrecorded ops");
}

TEST(Tape, batch_norm_and_spectral_norm_update_their_state_under_no_grad) {
    const NoGrad no_grad;
    const Tensor mean = Tensor::full({5}, 0), var = Tensor::full({5}, 1);
    batch_norm(Var(Tensor::full({4, 5}, 2)), leaf({5}, 1), leaf({5}, 2), mean, var);
    const rounding::Running momentum = rounding::rounded(0.1);
    expect_close(mean.to_host(), std::vector(5, 0 + momentum * (rounding::Running(2) - 0)), "running mean");
    expect_close(var.to_host(), std::vector(5, 1 + momentum * (rounding::Running(0) - 1)), "running variance");
    // All norms are powers of two.
    const Tensor u = Tensor::full({1}, -2), v = Tensor::full({4}, 7);
    const Var y = spectral_norm(Var(Tensor::from_host({4, 1}, {2, -2, 2, 2})), u, v);
    EXPECT_EQ(u.to_host(), Values{-1});
    EXPECT_EQ(v.to_host(), (Values{-0.5f, 0.5f, -0.5f, -0.5f}));
    EXPECT_EQ(y.value().to_host(), (Values{0.5f, -0.5f, 0.5f, 0.5f})) << "W / σ";
}

// A Var and a tensor of the given shape, for shape checks; the values do not matter.
Var of(const Shape& shape) { return leaf(shape, 1); }
Tensor ones(int64_t n) { return Tensor::full({n}, 1); }

TEST(Tape, elementwise_ops_reductions_and_pooling_reject_wrong_shapes) {
    const NoGrad no_grad;
    EXPECT_THROW(add(of({2, 3}), of({3, 2})), std::runtime_error) << "add";
    EXPECT_THROW(multiply(of({2, 3}), of({2, 3, 1})), std::runtime_error) << "multiply";
    EXPECT_THROW(leaky_relu(of({2, 3}), -0.1f), std::runtime_error) << "leaky_relu with a negative slope";
    EXPECT_THROW(reshape(of({2, 3}), {2, 4}), std::runtime_error) << "reshape";
    EXPECT_THROW(squared_error(of({2, 3}), of({3, 3})), std::runtime_error) << "squared_error";
    EXPECT_THROW(gaussian_nll(of({2, 3}), of({2, 4}), of({2, 3})), std::runtime_error) << "gaussian_nll, mu";
    EXPECT_THROW(gaussian_nll(of({2, 3}), of({2, 3}), of({3, 3})), std::runtime_error) << "gaussian_nll, logvar";
    EXPECT_THROW(reparametrise(of({2, 3}), of({2, 4}), ones(6)), std::runtime_error) << "reparametrise, logvar";
    EXPECT_THROW(reparametrise(of({2, 3}), of({2, 3}), ones(7)), std::runtime_error) << "reparametrise, eps";
    EXPECT_THROW(avg_pool2(of({2, 3, 4, 5})), std::runtime_error) << "avg_pool2 of an odd height";
    EXPECT_THROW(avg_pool2(of({2, 4, 3, 5})), std::runtime_error) << "avg_pool2 of an odd width";
}

TEST(Tape, convolutions_and_linear_layers_reject_wrong_shapes) {
    const NoGrad no_grad;
    EXPECT_THROW(conv2d(of({2, 5, 4, 3}), of({3, 3, 2, 6}), Var(), {.padding = 1}), std::runtime_error)
        << "conv2d, channels";
    EXPECT_THROW(conv2d(of({2, 5, 4, 3}), of({3, 1, 3, 6}), Var(), {.padding = 1}), std::runtime_error)
        << "conv2d, a kernel that is not square";
    EXPECT_THROW(conv2d(of({2, 5, 4, 3}), of({3, 3, 3, 6}), of({5}), {.padding = 1}), std::runtime_error)
        << "conv2d, bias";
    EXPECT_THROW(conv2d(of({2, 1, 4, 3}), of({4, 4, 3, 6}), Var(), {.padding = 1}), std::runtime_error)
        << "conv2d, a kernel higher than the image";
    EXPECT_THROW(conv2d(of({2, 4, 1, 3}), of({4, 4, 3, 6}), Var(), {.padding = 1}), std::runtime_error)
        << "conv2d, a kernel wider than the image";
    EXPECT_THROW(conv2d(of({2, 4, 6, 3}), of({4, 4, 3, 6}), Var(), {.padding = 1, .pool = true}), std::runtime_error)
        << "conv2d, a pooled even kernel";
    EXPECT_THROW(conv2d(of({2, 5, 6, 3}), of({3, 3, 3, 6}), Var(), {.padding = 1, .pool = true}), std::runtime_error)
        << "conv2d, a pooled odd image";
    EXPECT_THROW(conv2d(of({2, 8, 8, 3}), of({3, 3, 3, 6}), Var(), {.stride = 2, .padding = 1, .pool = true}),
                 std::runtime_error)
        << "conv2d, pooled with a stride";
    EXPECT_THROW(conv2d(of({2, 4, 6, 3}), of({3, 3, 3, 6}), Var(), {.padding = 1, .residual = of({2, 4, 6, 3})}),
                 std::runtime_error)
        << "conv2d, residual";
    EXPECT_THROW(linear(of({2, 3}), of({4, 5}), Var()), std::runtime_error) << "linear";
    EXPECT_THROW(linear(of({2, 3}), of({3, 5}), of({4})), std::runtime_error) << "linear, bias";
}

TEST(Tape, norms_reject_wrong_shapes) {
    const NoGrad no_grad;
    EXPECT_THROW(batch_norm(of({2, 3}), of({2}), of({3}), ones(3), ones(3)), std::runtime_error)
        << "batch_norm, weight";
    EXPECT_THROW(batch_norm(of({2, 3}), of({3}), of({4}), ones(3), ones(3)), std::runtime_error) << "batch_norm, bias";
    EXPECT_THROW(batch_norm(of({2, 3}), of({3}), of({3}), ones(2), ones(3)), std::runtime_error)
        << "batch_norm, running mean";
    EXPECT_THROW(batch_norm(of({2, 3}), of({3}), of({3}), ones(3), ones(2)), std::runtime_error)
        << "batch_norm, running variance";
    EXPECT_THROW(batch_norm_relu_conv2d(of({2, 4, 6, 3}), of({3}), of({3}), ones(3), ones(3), 0.1f, of({3, 3, 3, 5}),
                                        of({4}), {}),
                 std::runtime_error)
        << "batch_norm_relu_conv2d, bias";
    EXPECT_THROW(batch_norm_relu_conv2d(of({2, 4, 6, 3}), of({3}), of({3}), ones(3), ones(3), 0.1f, of({3, 3, 4, 5}),
                                        of({5}), {}),
                 std::runtime_error)
        << "batch_norm_relu_conv2d, channels";
    EXPECT_THROW(batch_norm_relu_conv2d(of({2, 4, 6, 3}), of({3}), of({3}), ones(3), ones(3), 0.1f, of({3, 3, 3, 5}),
                                        of({5}), {1, false, of({2, 4, 6, 5}), true}),
                 std::runtime_error)
        << "batch_norm_relu_conv2d, residual";
    EXPECT_THROW(spectral_norm(of({4, 3}), ones(4), ones(4)), std::runtime_error) << "spectral_norm, u";
    EXPECT_THROW(spectral_norm(of({4, 3}), ones(3), ones(3)), std::runtime_error) << "spectral_norm, v";
}

TEST(Tape, a_grad_output_of_the_wrong_size_throws) {
    const Var x = leaf({3, 7}, 1);
    EXPECT_THROW(backward(x, {x}, Tensor::full({20}, 1)), std::runtime_error);
    backward(x, {x}, Tensor::full({21}, 1));
    EXPECT_THROW(backward(x, {x}, Tensor::full({20}, 1)), std::runtime_error) << "with a gradient to accumulate into";
}

// ---- only requested gradients are computed: counts of kernel calls ------------------------------

const Backend* counted_backend = nullptr;
std::map<std::string, int> calls;

// A copy of the backend in which each kernel counts its calls. Static, because the pool identifies a backend's memory
// by the table's address.
const Backend& counting_backend() {
    static Backend table;
    counted_backend = &best_cpu_backend();
    table = *counted_backend;
#define DUALMCMC_COUNT(kernel, arguments)   \
    table.kernel = [](auto... values) {     \
        ++calls[#kernel];                   \
        counted_backend->kernel(values...); \
    };
    DUALMCMC_KERNELS(DUALMCMC_COUNT)
#undef DUALMCMC_COUNT
    return table;
}

// Calls of each kernel in backward(loss, inputs).
std::map<std::string, int> calls_of_backward(const Var& loss, const std::vector<Var>& inputs) {
    calls.clear();
    backward(loss, inputs);
    for (const Var& v : inputs) v.clear_grad();
    return calls;
}

using Calls = std::map<std::string, int>;

TEST(KernelCalls, of_a_convolution) {
    const WithBackend with(counting_backend());
    const Var x = leaf({2, 5, 4, 3}, 1), w = leaf({3, 3, 3, 6}, 2), bias = leaf({6}, 3);
    const auto y = [&] { return conv2d(x, w, bias, {.padding = 1}); };
    EXPECT_EQ(calls_of_backward(y(), {x}), (Calls{{"fill", 1}, {"conv2d_backward_input", 1}}));
    EXPECT_EQ(calls_of_backward(y(), {w}), (Calls{{"fill", 1}, {"conv2d_backward_weight", 1}}));
    EXPECT_EQ(calls_of_backward(y(), {bias}), (Calls{{"fill", 1}, {"column_sum", 1}}));
    EXPECT_EQ(calls_of_backward(y(), {}), (Calls{{"fill", 1}}));
    const Var other = leaf({7}, 4);
    EXPECT_EQ(calls_of_backward(y(), {other}), (Calls{{"fill", 1}}));
}

// All kinds of layers, as in the EBM and the generator: a Langevin step needs only ∂/∂x.
TEST(KernelCalls, of_a_langevin_step) {
    const WithBackend with(counting_backend());
    const Var x = leaf({2, 6, 4, 3}, 1), w1 = leaf({3, 3, 3, 6}, 2), b1 = leaf({6}, 3), w2 = leaf({3, 3, 6, 5}, 4),
              weight = leaf({5}, 5), shift = leaf({5}, 6), w3 = leaf({5, 1}, 7), b3 = leaf({1}, 8);
    const Tensor u = random_tensor({6}, 9), v = random_tensor({27}, 10), mean = Tensor::full({5}, 0),
                 var = Tensor::full({5}, 1);
    const auto energy = [&] {
        const Var h = leaky_relu(conv2d(x, spectral_norm(w1, u, v), b1, {.padding = 1}), 0.2f);
        const Var pooled = global_avg_pool(relu(
            batch_norm(conv2d(h, w2, Var(), {.padding = 1, .relu = true, .pool = true}), weight, shift, mean, var)));
        return sum(linear(pooled, w3, b3));
    };
    EXPECT_EQ(calls_of_backward(energy(), {x}), (Calls{{"fill", 1},
                                                       {"fill_from_scalar", 1},
                                                       {"conv2d_backward_input", 3},
                                                       {"global_avg_pool_backward", 1},
                                                       {"leaky_relu_backward", 2},
                                                       {"batch_norm_backward_reduce", 1},
                                                       {"batch_norm_backward_elemt", 1}}));
    // The last layer's parameters alone: backward stops there.
    EXPECT_EQ(calls_of_backward(energy(), {w3, b3}),
              (Calls{{"fill", 1}, {"fill_from_scalar", 1}, {"conv2d_backward_weight", 1}, {"column_sum", 1}}));
    // All parameters, but not x: no input gradient of the first convolution.
    Calls update = calls_of_backward(energy(), {w1, b1, w2, weight, shift, w3, b3});
    EXPECT_EQ(update["conv2d_backward_weight"], 3);
    EXPECT_EQ(update["column_sum"], 2);
    EXPECT_EQ(update["spectral_norm_backward"], 1);
    EXPECT_EQ(update["conv2d_backward_input"], 2);
}

// ---- memory -------------------------------------------------------------------------------------

TEST(Pool, nothing_is_allocated_after_the_first_iteration) {
    const Var x = leaf({3, 10, 6, 5}, 1), w = leaf({3, 3, 5, 17}, 2), bias = leaf({17}, 3), weight = leaf({17}, 4),
              shift = leaf({17}, 5);
    const Tensor u = random_tensor({17}, 6), v = random_tensor({45}, 7), mean = Tensor::full({17}, 0),
                 var = Tensor::full({17}, 1);
    const auto iteration = [&] {
        const Var h =
            tanh(batch_norm(conv2d(x, spectral_norm(w, u, v), bias, {.padding = 1}), weight, shift, mean, var));
        const Var r = upsample2(avg_pool2(h));
        backward(add(squared_error(r, h), dualmcmc::mean(h)), {x, w, bias, weight, shift});
        for (const Var& leaf : {x, w, bias, weight, shift}) leaf.clear_grad();
    };
    iteration();
    const int64_t allocations = pool_allocations(), bytes = pool_bytes();
    EXPECT_GT(allocations, 0);
    for (int i = 0; i < 3; ++i) iteration();
    EXPECT_EQ(pool_allocations(), allocations);
    EXPECT_EQ(pool_bytes(), bytes);
}

}  // namespace
}  // namespace dualmcmc::test

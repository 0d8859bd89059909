// Each op on each device against double precision, within the bound of rounding.h; whole networks and training steps
// likewise; and that a wrong kernel breaks the bounds.
//
//     build/dualmcmc_tests --gtest_filter='Rounding*'     also prints the table of reference/RESULTS.md
#include "rounding.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "compare.h"

namespace dualmcmc::test {
namespace {

using rounding::Case;
using rounding::Condition;
using rounding::Filtering;
using rounding::Pass;
using rounding::Quantity;
using Doubles = std::vector<double>;

// ---- minimal filtering --------------------------------------------------------------------------

// y = O[(P p) ⊙ (Q q)] in one dimension: output o weighs point i by O_oi, and the point is a product of two sums,
// with weights of norm |P_i| and |Q_i|. Roundings at the points are independent, so that their effect is that of
// sqrt(Σ O_oi² |P_i|² |Q_i|²) products of the inputs' size, where the definition's n products have sqrt(n). Two
// dimensions multiply: this returns the square of the worst row's ratio.
template <size_t outputs, size_t points, size_t m, size_t n>
double amplification(const std::array<std::array<double, points>, outputs>& o,
                     const std::array<std::array<double, m>, points>& p,
                     const std::array<std::array<double, n>, points>& q, double terms) {
    const auto squares = [](const auto& row) {
        double total = 0;
        for (const double value : row) total += value * value;
        return total;
    };
    double largest = 0;
    for (const auto& row : o) {
        double total = 0;
        for (size_t i = 0; i < points; ++i) total += row[i] * row[i] * squares(p[i]) * squares(q[i]);
        largest = std::max(largest, total);
    }
    return largest / terms;
}

template <size_t rows, size_t columns>
std::array<std::array<double, rows>, columns> transpose(const std::array<std::array<double, columns>, rows>& m) {
    std::array<std::array<double, rows>, columns> t;
    for (size_t r = 0; r < rows; ++r)
        for (size_t c = 0; c < columns; ++c) t[c][r] = m[r][c];
    return t;
}

// The matrices of F(4, 3), at the points 0, ±1, ±2, ∞:
// Y = Aᵀ[(G g) ⊙ (Bᵀ d)], dg = Gᵀ[(A dY) ⊙ (Bᵀ d)].
constexpr std::array<std::array<double, 6>, 6> input_f43{{{4, 0, -5, 0, 1, 0},
                                                          {0, -4, -4, 1, 1, 0},
                                                          {0, 4, -4, -1, 1, 0},
                                                          {0, -2, -1, 2, 1, 0},
                                                          {0, 2, -1, -2, 1, 0},
                                                          {0, 4, 0, -5, 0, 1}}};
constexpr std::array<std::array<double, 3>, 6> weight_f43{{{1 / 4., 0, 0},
                                                           {-1 / 6., -1 / 6., -1 / 6.},
                                                           {-1 / 6., 1 / 6., -1 / 6.},
                                                           {1 / 24., 1 / 12., 1 / 6.},
                                                           {1 / 24., -1 / 12., 1 / 6.},
                                                           {0, 0, 1}}};
constexpr std::array<std::array<double, 6>, 4> output_f43{
    {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}}};
// F(4, 2) with the odd taps, at 0, ±1, 2, ∞ and four times the one tap (src/cpu/fast): of box-filtered inputs.
constexpr std::array<std::array<double, 9>, 9> input_pooled{{{2, -1, -2, 1, 0, 0, 0, 0, 0},
                                                             {0, -2, -1, 1, 0, 0, 0, 0, 0},
                                                             {0, 2, -3, 1, 0, 0, 0, 0, 0},
                                                             {0, -1, 0, 1, 0, 0, 0, 0, 0},
                                                             {0, 2, -1, -2, 1, 0, 0, 0, 0},
                                                             {0, 0, 0, 0, 0, 1, 0, 0, 0},
                                                             {0, 0, 0, 0, 0, 0, 1, 0, 0},
                                                             {0, 0, 0, 0, 0, 0, 0, 1, 0},
                                                             {0, 0, 0, 0, 0, 0, 0, 0, 1}}};
constexpr std::array<std::array<double, 3>, 9> weight_pooled{{{1 / 2., 0, 0},
                                                              {-1 / 2., 0, -1 / 2.},
                                                              {-1 / 6., 0, 1 / 6.},
                                                              {1 / 6., 0, 1 / 3.},
                                                              {0, 0, 1},
                                                              {0, 1, 0},
                                                              {0, 1, 0},
                                                              {0, 1, 0},
                                                              {0, 1, 0}}};
constexpr std::array<std::array<double, 9>, 4> output_pooled{{{1, 1, 1, 1, 0, 1, 0, 0, 0},
                                                              {0, 1, -1, 2, 0, 0, 1, 0, 0},
                                                              {0, 1, 1, 4, 0, 0, 0, 1, 0},
                                                              {0, 1, -1, 8, 1, 0, 0, 0, 1}}};

// In both dimensions. dgrad is fprop with the weights mirrored, or of pooled ones the adjoint, where an element of the
// input meets at least one product; wgrad of pooled convolutions is not filtered.
double amplification(Filtering filtering, const std::string& quantity) {
    if (filtering == Filtering::winograd)
        return quantity == "dw" ? amplification(transpose(weight_f43), transpose(output_f43), input_f43, 4)
                                : amplification(output_f43, weight_f43, input_f43, 3);
    if (filtering == Filtering::pooled && quantity == "y")
        return amplification(output_pooled, weight_pooled, input_pooled, 3);
    if (filtering == Filtering::pooled && quantity == "dx")
        return amplification(transpose(input_pooled), weight_pooled, transpose(output_pooled), 1);
    return 1;
}

// ---- a quantity's error -------------------------------------------------------------------------

struct Error {
    double relative;  // L2
    double share;     // of the bound, the largest of all elements; not above 1
};

// What filters does so over a tile, so its bound is that of the largest magnitude.
Error error_of(const Quantity& found, const Quantity& exact, Filtering filtering, double input_unit) {
    EXPECT_EQ(found.name, exact.name);
    EXPECT_EQ(found.value.size(), exact.value.size());
#ifdef PLAIN
    filtering = Filtering::none;
#endif
    const double amplify = amplification(filtering, found.name);
    const double gamma = std::min(exact.roundings, 8 * std::sqrt(exact.roundings)) * unit * amplify;
    const double largest = *std::max_element(exact.magnitude.begin(), exact.magnitude.end());
    double difference = 0, norm = 0, share = 0;
    for (size_t i = 0; i < exact.value.size(); ++i) {
        const double error = std::abs(found.value[i] - exact.value[i]);
        double bound = gamma * (amplify > 1 ? largest : exact.magnitude[i]);
        if (!exact.squares.empty()) bound += 8 * std::sqrt(2) * input_unit * exact.squares[i];
        difference += error * error;
        norm += exact.value[i] * exact.value[i];
        if (error > 0 || std::isnan(error)) share = std::max(share, bound > 0 ? error / bound : HUGE_VAL);
        if (std::isnan(error)) share = HUGE_VAL;
    }
    return {std::sqrt(difference / (norm > 0 ? norm : 1)), share};
}

const std::vector<Case>& float_cases() {
    static const std::vector<Case> cases = rounding::cases_in_float();
    return cases;
}
// In double, with their bounds; computed once.
const std::vector<std::vector<Quantity>>& exact_cases() {
    static const std::vector<std::vector<Quantity>> exact = [] {
        std::vector<std::vector<Quantity>> all;
        for (const Case& c : rounding::cases_in_double()) all.push_back(c.run());
        return all;
    }();
    return exact;
}

// Devices in the order of the table's columns.
std::vector<const Backend*> devices() {
    std::vector<const Backend*> usable = supported_cpu_backends();
    for (const Backend* table : gpu_backends_of_all_precisions())
        if (why_not(*table).empty()) usable.push_back(table);
    return usable;
}
bool filters(const Backend& table) { return std::string(table.name).starts_with("CPU"); }

// Of each case the worst errors of the value and of all else, and the largest share of a bound.
struct Row {
    double value = 0, gradients = 0, share = 0;
};
Row row_of(size_t index, const Backend& table) {
    const WithBackend with(table);
    const Case& c = float_cases()[index];
    const std::vector<Quantity> found = c.run();
    const std::vector<Quantity>& exact = exact_cases()[index];
    EXPECT_EQ(found.size(), exact.size());
    Row row;
    for (size_t k = 0; k < found.size(); ++k) {
        const Error error =
            error_of(found[k], exact[k], filters(table) ? c.filtering : Filtering::none, input_unit(table));
        double& worst = k == 0 ? row.value : row.gradients;
        worst = std::max(worst, error.relative);
        row.share = std::max(row.share, error.share);
    }
    return row;
}

// The table is for readers, not for make test, which is brief.
bool prints() { return !testing::FLAGS_gtest_brief; }

void print_header(const char* first) {
    if (!prints()) return;
    std::printf("\n| %s |", first);
    for (const Backend* table : devices()) std::printf(" %s |", table->name);
    std::printf("\n|---|");
    for (size_t i = 0; i < devices().size(); ++i) std::printf("---|");
    std::printf("\n");
}

TEST(Rounding, OfEachOpIsWithinItsBound) {
    const WithThreads one(1);
    print_header("op: y, gradients (share of bound)");
    for (size_t index = 0; index < float_cases().size(); ++index) {
        const std::string& name = float_cases()[index].name;
        if (prints()) std::printf("| %s |", name.c_str());
        for (const Backend* table : devices()) {
            const Row row = row_of(index, *table);
            EXPECT_LE(row.share, 1) << name << ", " << table->name;
            if (prints()) std::printf(" %.0e, %.0e (%.2f) |", row.value, row.gradients, row.share);
        }
        if (prints()) std::printf("\n");
    }
}

// ---- whole networks and training steps ----------------------------------------------------------

// "errors (share of bound) [ReLUs across their kink]" of one device.
std::string network_cell(const rounding::NetworkCase& network, Condition& condition, const Backend& table) {
    const WithBackend with(table);
    const Pass found = network.run(0, 0);
    const int64_t crossed = crossings(found, condition.exact);
    const Doubles bounds = condition.bounds(unit, input_unit(table), crossed);
    double share = 0;
    std::string cell;
    char number[32];
    for (size_t k = 0; k < bounds.size(); ++k) {
        const double error = distance(found.quantities[k], condition.exact.quantities[k]);
        share = std::max(share, error / bounds[k]);
        EXPECT_LE(error, bounds[k]) << network.name << ", " << found.quantities[k].name << ", " << table.name << ": "
                                    << crossed << " ReLUs across their kink";
        std::snprintf(number, sizeof number, "%s%.0e", k ? ", " : "", error);
        cell += number;
    }
    std::snprintf(number, sizeof number, " (%.2f)", share);
    return cell + number + (crossed ? text(" [", crossed, "]") : "");
}

TEST(Rounding, OfNetworksIsWhatTheirConditionMakesOfIt) {
    const WithThreads one(1);
    const auto exact = rounding::networks_in_double(), in_float = rounding::networks_in_float();
    ASSERT_EQ(exact.size(), in_float.size());
    print_header("network: values, gradients (share of bound) [ReLUs across their kink]");
    for (size_t index = 0; index < exact.size(); ++index) {
        Condition condition(exact[index].run, 16 * 64);
        if (prints()) std::printf("| %s |", exact[index].name.c_str());
        for (const Backend* table : devices()) {
            const std::string cell = network_cell(in_float[index], condition, *table);
            if (prints()) std::printf(" %s |", cell.c_str());
        }
        if (prints()) std::printf("\n");
    }
}

// ---- the bounds notice wrong kernels ------------------------------------------------------------

// A table in which one kernel of `inner` is wrong in a little.
const Backend* inner = nullptr;

// The weights without those of one tap and input channel: each sum lacks one term.
Tensor without_a_tap(const real* w, const ConvShape& s) {
    const Tensor weights({s.kernel * s.kernel * s.in * s.out});
    inner->copy(weights.data(), w, weights.size());
    inner->fill(weights.data() + weights.size() / s.out / 2 * s.out, 0, s.out);
    return weights;
}
void conv2d_without_a_tap(real* y, const real* x, const real* w, const real* bias, const real* residual, ConvShape s) {
    inner->conv2d(y, x, without_a_tap(w, s).data(), bias, residual, s);
}
void dgrad_without_a_tap(real* dx, const real* dy, const real* w, const real* x, const real* residual, ConvShape s) {
    inner->conv2d_backward_input(dx, dy, without_a_tap(w, s).data(), x, residual, s);
}
void wgrad_without_a_pixel(real* dw, const real* x, const real* dy, ConvShape s) {
    const Tensor upstream({s.y_size()});
    inner->copy(upstream.data(), dy, s.y_size());
    inner->fill(upstream.data() + s.y_size() / s.out / 2 * s.out, 0, s.out);
    inner->conv2d_backward_weight(dw, x, upstream.data(), s);
}
void column_sum_without_a_row(real* y, const real* x, int64_t rows, int64_t columns) {
    inner->column_sum(y, x + columns, rows - 1, columns);
}
void sum_without_an_element(real* y, const real* x, real factor, int64_t n) { inner->sum(y, x, factor, n - 1); }
void squared_error_without_the_last(real* y, const real* a, const real* b, real factor, int64_t n) {
    inner->squared_error(y, a, b, factor, n - 8);
}
void nll_without_an_element(real* y, const real* z, const real* mu, const real* logvar, real factor, int64_t n) {
    inner->gaussian_nll(y, z, mu, logvar, factor, n - 1);
}
void global_avg_pool_without_a_pixel(real* y, const real* x, int64_t batch, int64_t pixels, int64_t channels) {
    const Tensor input({batch * pixels * channels});
    inner->copy(input.data(), x, input.size());
    inner->fill(input.data(), 0, 1);
    inner->global_avg_pool(y, input.data(), batch, pixels, channels);
}
void statistics_without_epsilon(real* mean, real* rstd, real* running_mean, real* running_var, const real* x, real,
                                real momentum, int64_t rows, int64_t columns) {
    inner->batch_statistics(mean, rstd, running_mean, running_var, x, 0, momentum, rows, columns);
}
void statistics_without_a_row(real* mean, real* rstd, real* running_mean, real* running_var, const real* x,
                              real epsilon, real momentum, int64_t rows, int64_t columns) {
    inner->batch_statistics(mean, rstd, running_mean, running_var, x, epsilon, momentum, rows - 1, columns);
}
void spectral_norms_without_an_element(const SpectralWeight* weights, int64_t count, real epsilon) {
    for (int64_t i = 0; i < count; ++i) {
        SpectralWeight one = weights[i];
        const Tensor w({one.rows * one.columns});
        inner->copy(w.data(), one.w, w.size());
        inner->fill(w.data() + w.size() / 2, 0, 1);
        one.w = w.data();
        inner->spectral_norms(&one, 1, epsilon);
    }
}
void adam_without_decay(real* w, real* m, real* v, const real* gradient, real rate, double beta1, double beta2,
                        real correction, real epsilon, real, int64_t n) {
    inner->adam_update(w, m, v, gradient, rate, beta1, beta2, correction, epsilon, 0, n);
}
void langevin_with_a_wrong_step(real* y, const real* x, const real* gradient, const real* noise, real half_step_sq,
                                real noise_std, int64_t n) {
    inner->langevin_update(y, x, gradient, noise, half_step_sq * (1 + 0x1p-18f), noise_std, n);
}

struct Mutant {
    const char* name;
    std::function<void(Backend&)> make;
    const char* noticed_in;  // the name of each case that must notice it; with a *, its beginning
};
const Mutant mutants[] = {
    {"conv2d without a term", [](Backend& b) { b.conv2d = conv2d_without_a_tap; }, "conv2d*"},
    {"a linear layer without a term", [](Backend& b) { b.conv2d = conv2d_without_a_tap; }, "linear*"},
    {"dgrad without a term", [](Backend& b) { b.conv2d_backward_input = dgrad_without_a_tap; }, "conv2d*"},
    {"wgrad without a pixel", [](Backend& b) { b.conv2d_backward_weight = wgrad_without_a_pixel; }, "conv2d*"},
    {"column sums without a row", [](Backend& b) { b.column_sum = column_sum_without_a_row; }, "conv2d*"},
    {"a sum without an element", [](Backend& b) { b.sum = sum_without_an_element; }, "sum"},
    {"squared errors cut short", [](Backend& b) { b.squared_error = squared_error_without_the_last; }, "squared*"},
    {"Eq. 15 without an element", [](Backend& b) { b.gaussian_nll = nll_without_an_element; }, "gaussian_nll"},
    {"means without a pixel", [](Backend& b) { b.global_avg_pool = global_avg_pool_without_a_pixel; }, "global*"},
    {"statistics without epsilon", [](Backend& b) { b.batch_statistics = statistics_without_epsilon; },
     "batch_norm, small variance"},
    {"statistics without a row", [](Backend& b) { b.batch_statistics = statistics_without_a_row; }, "batch_norm_relu*"},
    {"power iterations without a weight", [](Backend& b) { b.spectral_norms = spectral_norms_without_an_element; },
     "spectral_norm*"},
    {"Adam without decay", [](Backend& b) { b.adam_update = adam_without_decay; }, "adam_update"},
    {"a Langevin step 4e-6 too long", [](Backend& b) { b.langevin_update = langevin_with_a_wrong_step; },
     "langevin_update"},
};

bool matches(const std::string& name, const std::string& pattern) {
    return pattern.ends_with('*') ? name.starts_with(pattern.substr(0, pattern.size() - 1)) : name == pattern;
}

// On the CPU's last instruction set. Each mutant is a table of its own, since the pool tells memory by its table.
TEST(Rounding, BoundsNoticeWrongKernels) {
    const WithThreads one(1);
    static Backend tables[std::size(mutants)];
    inner = supported_cpu_backends().back();
    for (size_t i = 0; i < std::size(mutants); ++i) {
        tables[i] = *inner;
        mutants[i].make(tables[i]);
        size_t cases = 0;
        for (size_t index = 0; index < float_cases().size(); ++index) {
            const std::string& name = float_cases()[index].name;
            if (!matches(name, mutants[i].noticed_in)) continue;
            ++cases;
            EXPECT_LE(row_of(index, *inner).share, 1) << name;
            EXPECT_GT(row_of(index, tables[i]).share, 1) << mutants[i].name << ": " << name;
        }
        EXPECT_GT(cases, 0u) << mutants[i].name;
    }
}

}  // namespace
}  // namespace dualmcmc::test

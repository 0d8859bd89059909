// What rounding does to each op: the cases, which are compiled in float and once more in double (Makefile, PROOF), and
// the bound that they share. rounding_test.cpp holds the one against the other on every device and prints the table.
//
// The bound. A computed sum, product or quotient is the exact one times 1 + δ, |δ| <= u = 2^-24. An element that is
// made of terms t by n roundings is then off by at most γ Σ|t| with γ = n u (1 + O(n u)): the op on absolute values,
// its `magnitude`, which the double build computes. For long sums that is far too much, since the δ differ in sign.
// Taken as independent of mean 0, they add up to more than λ sqrt(n) u Σ|t| with a probability of at most
// 2 exp(-λ²/2), by Hoeffding's inequality (Higham and Mary 2019). With λ = 8, 3e-14, that is never. So
//
//   |float - double| <= min(n, 8 sqrt(n)) u amplification magnitude + 8 sqrt(2) v squares
//
// The last term is that of GEMMs whose inputs are rounded to a relative error v (TF32, bf16, AMX's pairs of bf16): both
// factors of each term t are off by at most v, independently, and `squares` is sqrt(Σ t²), the op on squares.
// `amplification` is 1, except where a minimal filtering (Winograd) computes the sum from larger ones.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

namespace rounding {

struct Quantity {
    std::string name;           // y, dx, ...
    std::vector<double> value;  // as computed
    double roundings = 0;       // n
    // In the double build alone. Empty squares: no GEMM.
    std::vector<double> magnitude, squares;
};

// Passes of a convolution that minimal filtering may compute; see amplification() in rounding_test.cpp.
enum class Filtering { none, winograd, pooled };

struct Case {
    std::string name;
    Filtering filtering;
    std::function<std::vector<Quantity>()> run;
};

// All cases, in float on the current device, and in double by the plain kernels.
std::vector<Case> cases_in_float();
std::vector<Case> cases_in_double();

// ---- formulas -----------------------------------------------------------------------------------

// A value in double precision and a bound on its error where it is computed in u: |computed - value| <= error u. A
// formula of these is a running error analysis: each operation passes on its operands' errors and adds its own
// rounding.
struct Running {
    double value, error;
    Running(double exact = 0) : value(exact), error(0) {}
    Running(double value_, double error_) : value(value_), error(error_) {}
};
// A constant that is rounded.
inline Running rounded(double x) { return {x, std::abs(x)}; }

inline Running operator-(const Running& a) { return {-a.value, a.error}; }
inline Running operator+(const Running& a, const Running& b) {
    const double value = a.value + b.value;
    return {value, a.error + b.error + std::abs(value)};
}
inline Running operator-(const Running& a, const Running& b) { return a + -b; }
inline Running operator*(const Running& a, const Running& b) {
    const double value = a.value * b.value;
    return {value, std::abs(a.value) * b.error + a.error * std::abs(b.value) + std::abs(value)};
}
inline Running operator/(const Running& a, const Running& b) {
    const double value = a.value / b.value;
    return {value, (a.error + std::abs(value) * b.error) / std::abs(b.value) + std::abs(value)};
}
inline Running square(const Running& a) { return a * a; }
inline Running sqrt(const Running& a) {
    const double value = std::sqrt(a.value);
    return {value, a.error / (2 * value) + value};
}
// At most 2 units in the last place, here and in every library that is used.
inline Running exp(const Running& a) {
    const double value = std::exp(a.value);
    return {value, value * a.error + 4 * value};
}
inline Running log(const Running& a) {
    const double value = std::log(a.value);
    return {value, a.error / a.value + 4 * std::abs(value)};
}
inline Running sin(const Running& a) {
    const double value = std::sin(a.value);
    return {value, std::abs(std::cos(a.value)) * a.error + 4 * std::abs(value)};
}
inline Running cos(const Running& a) {
    const double value = std::cos(a.value);
    return {value, std::abs(std::sin(a.value)) * a.error + 4 * std::abs(value)};
}
inline Running tanh(const Running& a) {
    const double value = std::tanh(a.value);
    return {value, (1 - value * value) * a.error + 4 * std::abs(value)};
}

// Two normals of two uniforms in (0, 1].
inline std::array<Running, 2> box_muller(const Running& u, const Running& v) {
    const Running radius = sqrt(-2 * log(u)), angle = rounded(2 * std::numbers::pi) * v;
    return {radius * sin(angle), radius * cos(angle)};
}

// The sum of n terms in any order: parts of L = `length` terms are added one by one in the precision of u, and the
// parts' sums in double. The squares of all partial sums that are rounded, of 2 to L terms, add up in the mean over all
// orders to (L+1)/(n-1) ((3n-2L-1)/6 Σt² + (L-1)/3 (Σt)²) - Σt²/L. Roundings, and the terms' own errors, are
// independent. Together they are off by at most λ times the root of the sum of their squares, with λ = 8 as above,
// and in any case by what each term passes through.
class RandomSum {
public:
    void add(const Running& term) {
        ++terms_, value_ += term.value, magnitude_ += std::abs(term.value), squares_ += term.value * term.value;
        errors_ += term.error, error_squares_ += term.error * term.error;
    }
    double squares() const { return squares_; }
    // The bound's, without λ.
    double spread(double length = HUGE_VAL) const { return std::sqrt(partial_squares(length) + error_squares_); }
    Running get(double length = HUGE_VAL) const {
        const double most = (std::min(length, terms_) - 1) * magnitude_ + errors_;
        return {value_, std::min(most, 8 * spread(length))};
    }
    // The terms are added in double, where `unit` is u.
    Running in_double(double unit) const { return {value_, get(1).error + 0x1p-53 / unit * get().error}; }

private:
    double partial_squares(double length) const {
        const double n = terms_, l = std::min(length, n);
        if (l < 2) return 0;
        return (l + 1) / (n - 1) * ((3 * n - 2 * l - 1) / 6 * squares_ + (l - 1) / 3 * value_ * value_) - squares_ / l;
    }
    double terms_ = 0, value_ = 0, magnitude_ = 0, squares_ = 0, errors_ = 0, error_squares_ = 0;
};

// ---- networks and training steps ----------------------------------------------------------------

// What rounding makes of a network depends on its condition, so it can be run with every parameter p changed to
// p (1 + change ξ), ξ uniform in [-1, 1); and it tells the sides of all ReLUs.
struct Pass {
    std::vector<Quantity> quantities;  // roundings: of the last sum alone, where it is long
    std::vector<std::vector<bool>> relus;
    size_t values =
        0;  // the first so many do not jump where a ReLU crosses its kink: a pass's values, not its gradients
    std::vector<Quantity> expected;  // of the networks in a file: what that says of each quantity
};
struct NetworkCase {
    std::string name;
    bool chain;  // a training step
    std::function<Pass(double change, uint32_t draw)> run;
};
std::vector<NetworkCase> networks_in_float();
std::vector<NetworkCase> networks_in_double();
// Two layers whose values and gradients flow from one into the other.
std::vector<NetworkCase> layers_in_float();
std::vector<NetworkCase> layers_in_double();
// The networks of a file of networks_test.cpp, with that file's inputs and upstream gradients.
std::vector<NetworkCase> stored_networks_in_float(const std::string& path);
std::vector<NetworkCase> stored_networks_in_double(const std::string& path);

// ‖a - b‖ / ‖b‖; NaN if the sizes differ.
inline double distance(const Quantity& a, const Quantity& b) {
    if (a.name != b.name || a.value.size() != b.value.size()) return NAN;
    double difference = 0, norm = 0;
    for (size_t i = 0; i < b.value.size(); ++i) {
        difference += std::pow(a.value[i] - b.value[i], 2);
        norm += b.value[i] * b.value[i];
    }
    return std::sqrt(difference / norm);
}

// The number of ReLUs that have their inputs on different sides of the kink.
inline int64_t crossings(const Pass& a, const Pass& b) {
    if (a.relus.size() != b.relus.size()) throw std::logic_error("passes of different networks");
    int64_t count = 0;
    for (size_t call = 0; call < a.relus.size(); ++call)
        for (size_t i = 0; i < a.relus[call].size(); ++i) count += a.relus[call][i] != b.relus[call].at(i);
    return count;
}

// A weight's gradient sums over the pixels of a batch: of up to two images of 64 by 64.
inline constexpr double pixels = 2 * 64 * 64;

// A convolution as rounded is the exact one with weights that are off, output by output (backward error). Adding n
// terms one by one makes a relative error of 0.29 sqrt(n) u of standard deviation, which is that of a change of all
// terms by 0.5 sqrt(n) u ξ. Inputs that are rounded to a relative error v add v. So a network's error is compared with
// what changes of this size at random, in all weights, do to the double run: the largest of four draws. To this comes
// the quantity's own last sum or rounding; and all of it counts 4 times, since another draw may have a larger effect.
// Where no ReLU crosses its kink, the effect is linear in the change, and a change so small that none crosses tells it.
// Where some do, gradients jump: then the change is doubled until one crosses in a draw, but three times at most, since
// where even that takes none across it was not rounding that did.
class Condition {
public:
    using Run = std::function<Pass(double change, uint32_t draw)>;
    // terms: n, the most taps times channels of a convolution.
    Condition(Run run, double terms) : run_(std::move(run)), terms_(terms), exact(run_(0, 0)) {}

    // Of each quantity's relative error, for a run in which `crossed` ReLUs lie on the other side.
    std::vector<double> bounds(double unit, double input_unit, int64_t crossed) {
        const double change = 0.5 * std::sqrt(terms_) * unit + input_unit;
        double drawn = change;
        while (crossed > 0 && drawn < 8 * change && effects(drawn).crossed == 0) drawn *= 2;
        std::vector<double> bounds;
        for (size_t k = 0; k < exact.quantities.size(); ++k) {
            const bool jumps = crossed > 0 && k >= exact.values && effects(drawn).crossed > 0;
            const double effect = jumps ? effects(drawn).largest[k] : effects(tiny).largest[k] * change / tiny,
                         last = std::max(1.0, 0.29 * std::sqrt(exact.quantities[k].roundings)) * unit;
            bounds.push_back(4 * (effect + last));
        }
        return bounds;
    }

private:
    static constexpr double tiny = 0x1p-36;
    struct Effects {
        std::vector<double> largest;  // of each quantity
        int64_t crossed = 0;          // in all draws
    };
    const Effects& effects(double change) {
        const auto [entry, is_new] = effects_.try_emplace(change);
        Effects& found = entry->second;
        if (!is_new) return found;
        found.largest.resize(exact.quantities.size());
        for (uint32_t draw = 1; draw <= 4; ++draw) {
            const Pass disturbed = run_(change, draw);
            found.crossed += crossings(disturbed, exact);
            for (size_t k = 0; k < found.largest.size(); ++k)
                found.largest[k] = std::max(found.largest[k], distance(disturbed.quantities[k], exact.quantities[k]));
        }
        if (change == tiny && found.crossed > 0) throw std::logic_error("a ReLU's input is 0");
        return found;
    }
    Run run_;
    double terms_;
    std::map<double, Effects> effects_;  // by the change

public:
    const Pass exact;
};

}  // namespace rounding

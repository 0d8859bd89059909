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
#include <cmath>
#include <functional>
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

// A network or a training step. What rounding makes of it depends on its condition, so it can be run with every
// parameter p changed to p (1 + change ξ), ξ uniform in [-1, 1); and it tells the sides of all ReLUs.
struct Pass {
    std::vector<Quantity> quantities;  // no bounds
    std::vector<std::vector<bool>> relus;
};
struct NetworkCase {
    std::string name;
    bool chain;  // a training step
    std::function<Pass(double change, uint32_t draw)> run;
};
std::vector<NetworkCase> networks_in_float();
std::vector<NetworkCase> networks_in_double();

}  // namespace rounding

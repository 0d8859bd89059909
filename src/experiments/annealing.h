// log Z of an unnormalised density f = exp(-U) by annealed importance sampling (Neal 2001), forwards and backwards
// (Grosse, Ghahramani and Adams 2015). Knows no network; works in double precision on the host and asks a function for
// U and ∇U.
//
//   path      f_β = p_0^(1-β) f^β for 0 = β_0 < … < β_K = 1; p_0 is normalised, Z = ∫ f over p_0's support
//   forward   x ~ p_0;   for k = 1 … K:  log w += (β_k - β_{k-1}) (log f - log p_0)(x),  then x moves under f_{β_k}
//   reverse   x ~ f / Z; for k = K … 1:  x moves under f_{β_k},  then the same addition
//
//   E_forward w = Z and E_reverse 1/w = 1/Z, so by Jensen E_forward log w <= log Z <= E_reverse log w. The lower bound
//   holds always, the upper one only for exact samples of f / Z. Both close as K grows, by about Λ² / (2K) where the
//   moves mix well, Λ being the path's length in nats.
//
//   A move is Hamiltonian Monte Carlo: momentum p ~ N(0, I), leapfrog steps of ε, accepted with probability min(1,
//   e^-ΔH).
#pragma once
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace dualmcmc {

using Points = std::vector<double>;  // (B, D), row by row

struct Potential {
    std::vector<double> value;  // U (B)
    Points gradient;            // ∇U (B, D)
};
using PotentialFunction = std::function<Potential(const Points& x)>;

// p_0: N(0, scale² I), or uniform on the cube [-scale, scale]^D, at whose walls chains are reflected.
struct StartDensity {
    enum class Kind { gaussian, cube } kind;
    int64_t dimension;
    double scale;
    Points draw(int64_t count, uint64_t seed, uint64_t step) const;
    Potential potential(const Points& x) const;              // -log p_0 and its gradient
    void reflect(double& position, double& momentum) const;  // free flight between the walls, folded back
};

// Where chains stand, with both potentials there.
struct ChainState {
    Points x;
    Potential start, target;
};

struct AnnealingSettings {
    int64_t chains = 16, temperatures = 1000, leapfrog = 10;
    double acceptance = 0.7;  // what the pilot tunes ε for
    uint64_t seed = 1;
};

// β_0 … β_K, and the ε of the moves under each.
struct Schedule {
    std::vector<double> beta, step;
};

class Annealing {
public:
    Annealing(const StartDensity& start, const PotentialFunction& target, const AnnealingSettings& settings);

    // The pilot: chains go from p_0 to f while ε adapts to the acceptance, and β goes on by what changes log w by about
    // one nat's deviation from chain to chain. The schedule is this path at K + 1 evenly spaced places. Its chains are
    // thrown away: weighted runs use a fixed schedule, without which their moves would leave nothing invariant.
    Schedule find_schedule() const;

    struct Run {
        std::vector<double> log_weight;  // of each chain
        std::vector<double> acceptance;  // mean over chains, at k = 1 … K
        Points end;                      // forward: about f, as far as the chains have kept up; reverse: about p_0
    };
    Run forward(const Schedule& schedule) const;
    Run reverse(const Schedule& schedule, const Points& samples) const;

    // `count` moves under f itself; returns the mean acceptance.
    double move_on(Points& x, double step, int64_t count) const;

    ChainState at(Points x) const;
    // One move of all chains under f_β, in place; returns the mean of min(1, e^-ΔH). ε varies by ±20 % from move to
    // move, so that no trajectory closes on itself. `draw` numbers the random numbers.
    double move(ChainState& state, double beta, double step, uint64_t draw) const;

private:
    Run anneal(const Schedule& schedule, Points x, bool backwards, uint64_t run) const;
    StartDensity start_;
    PotentialFunction target_;
    AnnealingSettings settings_;
};

// What log weights say of log Z.
struct LogZ {
    double mean, error;  // mean of log w and its standard error: the bound in expectation
    double log_mean;     // log mean w, reverse: -log mean 1/w. The tighter bound of the same side, but heavy-tailed
    double effective;    // (Σw)² / Σw², of 1/w for reverse: chains that count
};
LogZ log_z(const std::vector<double>& log_weight, bool reverse);

}  // namespace dualmcmc

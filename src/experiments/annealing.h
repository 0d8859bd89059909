// log Z of an unnormalised density f = exp(-U) by annealed importance sampling (Neal 2001), forward and in reverse
// (Grosse, Ghahramani and Adams 2015). Independent of the networks: works in double precision on the host and takes U
// and ∇U from a function.
//
//   path      f_β = p_0^(1-β) f^β for 0 = β_0 < … < β_K = 1; p_0 is normalised, Z = ∫ f over its support
//   forward   x ~ p_0;   for k = 1 … K:  log w += (β_k - β_{k-1}) (log f - log p_0)(x),  then a move under f_{β_k}
//   reverse   x ~ f / Z; for k = K … 1:  a move under f_{β_k},  then the same addition
//
//   E_forward w = Z and E_reverse 1/w = 1/Z, so by Jensen E_forward log w <= log Z <= E_reverse log w. The lower bound
//   always holds; the upper bound holds only for exact samples of f / Z. Both gaps close as K grows, by about
//   Λ² / (2K) if the moves mix well, where Λ is the length of the path in nats.
//
//   A move is one step of Hamiltonian Monte Carlo: momentum p ~ N(0, I), leapfrog steps of size ε, accepted with
//   probability min(1, e^-ΔH).
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

// p_0: N(0, scale² I), or uniform on the cube [-scale, scale]^D, whose walls reflect the chains.
struct StartDensity {
    enum class Kind { gaussian, cube } kind;
    int64_t dimension;
    double scale;
    Points draw(int64_t count, uint64_t seed, uint64_t step) const;
    Potential potential(const Points& x) const;  // -log p_0 and its gradient
    // Folds a position after free flight back between the walls, and flips the momentum if needed.
    void reflect(double& position, double& momentum) const;
};

// The positions of the chains, with both potentials there.
struct ChainState {
    Points x;
    Potential start, target;
};

struct AnnealingSettings {
    int64_t chains = 16, temperatures = 1000, leapfrog = 10;
    double acceptance = 0.7;  // the pilot run tunes ε for this rate
    uint64_t seed = 1;
};

// β_0 … β_K, and the step size ε of the moves at each β.
struct Schedule {
    std::vector<double> beta, step;
};

class Annealing {
public:
    Annealing(const StartDensity& start, const PotentialFunction& target, const AnnealingSettings& settings);

    // The pilot run: chains go from p_0 to f while ε adapts to the acceptance rate. Each step of β changes log w by
    // about one nat (standard deviation over the chains). The schedule is K + 1 evenly spaced points of this path. The
    // pilot's chains are discarded: weighted runs need a fixed schedule, since adaptive moves leave nothing invariant.
    // Fails if an energy is not finite, or if the path takes too many steps.
    Schedule find_schedule() const;

    struct Run {
        std::vector<double> log_weight;  // per chain
        std::vector<double> acceptance;  // mean over chains, at k = 1 … K
        Points end;                      // forward: about f, as far as the chains have kept up; reverse: about p_0
    };
    Run forward(const Schedule& schedule) const;
    Run reverse(const Schedule& schedule, const Points& samples) const;

    // Makes `count` moves under f itself; returns the mean acceptance.
    double move_on(Points& x, double step, int64_t count) const;

    ChainState at(Points x) const;
    // One move of all chains under f_β, in place; returns the mean of min(1, e^-ΔH). ε varies by ±20 % from move to
    // move, so that no trajectory is periodic. `draw` selects the random numbers.
    double move(ChainState& state, double beta, double step, uint64_t draw) const;

private:
    Run anneal(const Schedule& schedule, Points x, bool backwards, uint64_t phase) const;
    StartDensity start_;
    PotentialFunction target_;
    AnnealingSettings settings_;
};

// Estimates of log Z from log weights.
struct LogZ {
    double mean, error;  // mean of log w and its standard error: a bound in expectation
    double log_mean;     // log mean w; in reverse -log mean 1/w. A tighter bound on the same side, but heavy-tailed
    double effective;    // effective number of chains, (Σw)² / Σw²; in reverse of 1/w
};
LogZ log_z(const std::vector<double>& log_weight, bool reverse);

}  // namespace dualmcmc

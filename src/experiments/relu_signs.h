// On which side of its kink each ReLU's input lies: what tells a rounding error that a chain carries on from a wrong
// algorithm.
#pragma once
#include <cstdint>
#include <vector>

namespace dualmcmc {

// While one lives, all that the current device computes passes through a table of kernels that also records, call by
// call, which inputs of ReLUs are above 0; images are taken whole, not in groups, and nothing is captured in a graph.
// One at a time, on the thread that made it.
class ReluSigns {
public:
    // A bit for each input, for each ReLU, in order of the calls.
    using Record = std::vector<std::vector<bool>>;
    explicit ReluSigns(Record& record);
    ~ReluSigns();
    ReluSigns(const ReluSigns&) = delete;
    ReluSigns& operator=(const ReluSigns&) = delete;
};

}  // namespace dualmcmc

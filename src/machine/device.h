// The device that computes: the choice of it, and how work is shared out on it.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "backend.h"

namespace dualmcmc {

// The table of kernels in use. set_backend is called once at start (tests may exchange it between computations).
const Backend& backend();
void set_backend(const Backend& table);

// Picks the device named "auto", "cpu", "cuda", or one instruction set: "cpu-amx", "cpu-avx512", "cpu-avx2",
// "cpu-sse2"; sets the number of CPU threads (0: all) and the precision of the GPU's GEMMs: "fp32",
// "tf32", "bf16", or "auto", which is tf32 there and fp32 on the CPU. Returns one line that says what was chosen and
// why; fails where it cannot be had.
std::string select_device(const std::string& name, int64_t threads, const std::string& precision = "auto");

// While one lives, convolutions sum fp32 MACs as they stand, whatever faster way the device has: for comparisons in
// which a rounding error that takes a ReLU across its kink counts.
class ExactConvolutions {
public:
    ExactConvolutions();
    ~ExactConvolutions();
    ExactConvolutions(const ExactConvolutions&) = delete;
    ExactConvolutions& operator=(const ExactConvolutions&) = delete;

private:
    const Backend& before_;
};

// Calls task(0) … task(count - 1), which must not depend on each other: at once on several threads where the device
// allows that, else one after the other. The first exception is rethrown at the end.
void for_each_task(int64_t count, const std::function<void(int64_t)>& task);

}  // namespace dualmcmc

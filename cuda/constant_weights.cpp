// ConstantWeights: each thread's current id.
#include <atomic>

#include "backend.h"

namespace dualmcmc {

namespace {
thread_local uint64_t current_id = 0;
}

ConstantWeights::ConstantWeights(uint64_t id) : before_(current_id) { current_id = id; }
ConstantWeights::~ConstantWeights() { current_id = before_; }
uint64_t ConstantWeights::current() { return current_id; }
uint64_t ConstantWeights::next() {
    static std::atomic<uint64_t> ids = 0;
    return ++ids;
}

}  // namespace dualmcmc

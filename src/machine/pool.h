// The caching allocator behind Tensor: freed blocks wait, by size, for the next tensor. After the first iteration
// nothing is allocated.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>

#include "backend.h"

namespace dualmcmc {

// The device's memory is full, although the pool has freed its cached blocks.
struct OutOfMemory : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Uninitialised device memory for n numbers; the last owner gives it back to the pool. Throws OutOfMemory, saying what
// to do, where there is none.
std::shared_ptr<real> pool_allocate(int64_t n);

// Allocations made on devices since start, and their bytes: they grow until every size has been seen once.
int64_t pool_allocations();
int64_t pool_bytes();

// A private pool: blocks freed by tensors made under Use are reused only by tensors made under Use.
class PrivatePool {
public:
    PrivatePool();
    ~PrivatePool();  // gives its blocks to the pool
    PrivatePool(const PrivatePool&) = delete;
    PrivatePool& operator=(const PrivatePool&) = delete;

    class Use {
    public:
        explicit Use(const PrivatePool& memory);
        ~Use();
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;
    };

private:
    std::shared_ptr<struct FreeBlocks> free_;
};

}  // namespace dualmcmc

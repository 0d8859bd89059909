// The caching allocator.
#include "machine/pool.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "check.h"
#include "machine/device.h"
#include "machine/memory.h"

namespace dualmcmc {

namespace {

using BlockKind = std::pair<const Backend*, size_t>;  // device and size class

}  // namespace

struct FreeBlocks : std::map<BlockKind, std::vector<void*>> {
    void* take(const BlockKind& kind) {
        const auto cached = find(kind);
        if (cached == end() || cached->second.empty()) return nullptr;
        void* memory = cached->second.back();
        cached->second.pop_back();
        return memory;
    }
};

namespace {

// Freed blocks wait here for the next tensor of their size class. The lock is held only for a look-up.
struct Pool {
    std::mutex lock;
    FreeBlocks free;
    std::shared_ptr<FreeBlocks> private_blocks;  // the private pool in use
    int64_t allocations = 0, bytes = 0;
};

// Never destroyed: tensors with static storage may outlive it.
Pool& pool() {
    static Pool& instance = *new Pool;
    return instance;
}

// Size classes: an eighth of a power of two apart, so that at most an eighth is wasted.
size_t size_class(size_t bytes) {
    size_t step = 256;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step;
}

// On the CPU also a bad_alloc where Linux would hand out what the machine does not have.
void* allocate_within_limit(const Backend& device, size_t bytes) {
    const bool on_host = !device.free_bytes;
    if (on_host && int64_t(bytes) > memory_limit() - pool_bytes()) throw std::bad_alloc();
    return device.allocate(bytes);
}

void* allocate_on(const Backend& device, size_t bytes) {
    try {
        return with_room([&] { return allocate_within_limit(device, bytes); });
    } catch (const std::bad_alloc&) {
        throw OutOfMemory(text("out of memory (", device.name, "): ", bytes >> 20, " MiB more are needed after ",
                               pool_bytes() >> 20, " MiB",
                               device.free_bytes ? text("; ", device.free_bytes() >> 20, " MiB are free") : "",
                               "; lower --batch or the widths"));
    }
}

}  // namespace

std::shared_ptr<real> pool_allocate(int64_t n) {
    const BlockKind kind{&backend(), size_class(std::max<size_t>(1, size_t(n)) * sizeof(real))};
    void* memory = nullptr;
    std::weak_ptr<FreeBlocks> home;
    {
        std::lock_guard guard(pool().lock);
        home = pool().private_blocks;
        if (pool().private_blocks) memory = pool().private_blocks->take(kind);
        if (!memory) memory = pool().free.take(kind);
    }
    if (!memory) {
        memory = allocate_on(*kind.first, kind.second);
        std::lock_guard guard(pool().lock);
        pool().allocations += 1;
        pool().bytes += int64_t(kind.second);
    }
    return {static_cast<real*>(memory), [kind, home](real* p) {
                std::lock_guard guard(pool().lock);
                const auto private_blocks = home.lock();
                (private_blocks ? *private_blocks : pool().free)[kind].push_back(p);
            }};
}

void empty_cache() {
    std::lock_guard guard(pool().lock);
    for (auto& [kind, blocks] : pool().free) {
        while (!blocks.empty()) {  // one by one, so that a throw leaves the list valid
            kind.first->release(blocks.back());
            blocks.pop_back();
            pool().bytes -= int64_t(kind.second);
        }
    }
}

int64_t pool_allocations() {
    std::lock_guard guard(pool().lock);
    return pool().allocations;
}
int64_t pool_bytes() {
    std::lock_guard guard(pool().lock);
    return pool().bytes;
}

PrivatePool::PrivatePool() : free_(std::make_shared<FreeBlocks>()) {}
PrivatePool::~PrivatePool() {
    std::lock_guard guard(pool().lock);
    for (const auto& [kind, blocks] : *free_)
        pool().free[kind].insert(pool().free[kind].end(), blocks.begin(), blocks.end());
    free_.reset();
}
PrivatePool::Use::Use(const PrivatePool& memory) {
    std::lock_guard guard(pool().lock);
    pool().private_blocks = memory.free_;
}
PrivatePool::Use::~Use() {
    std::lock_guard guard(pool().lock);
    pool().private_blocks.reset();
}

}  // namespace dualmcmc

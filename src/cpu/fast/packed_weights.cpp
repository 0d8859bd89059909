// The cache of packed weights: one per thread, valid within one ConstantWeights scope.
#include <algorithm>
#include <deque>
#include <functional>
#include <memory>

#include "cpu/fast/algorithms.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

using Memory = std::unique_ptr<float, void (*)(void*)>;

struct Entry {
    const void* layout_tag;
    const float* w;  // null: left from an earlier scope; only its memory is of use
    int64_t size;
    Memory packed;
};

struct Cache {
    static constexpr size_t max_entries = 32;
    static constexpr int64_t max_floats = int64_t(1) << 24;
    uint64_t id = 0;            // of the ConstantWeights scope
    int64_t total = 0;          // floats in all entries
    std::deque<Entry> entries;  // newest first

    Memory take(std::deque<Entry>::iterator entry) {
        Memory memory = std::move(entry->packed);
        total -= entry->size;
        entries.erase(entry);
        return memory;
    }

    // Memory for `size` floats: an old scope's entry of this size, or else new, after evicting the oldest entries as
    // the limits require (one of this size is used again).
    Memory acquire(int64_t size) {
        const auto old = std::find_if(entries.begin(), entries.end(),
                                      [=](const Entry& entry) { return !entry.w && entry.size == size; });
        if (old != entries.end()) return take(old);
        Memory memory{nullptr, release};
        while (!entries.empty() && (entries.size() >= max_entries || total + size > max_floats)) {
            const bool fits = entries.back().size == size;
            Memory evicted = take(entries.end() - 1);
            if (fits) memory = std::move(evicted);
        }
        if (!memory) memory.reset(static_cast<float*>(allocate(size_t(size) * sizeof(float))));
        return memory;
    }
};

}  // namespace

const float* packed_weights(const void* layout_tag, const float* w, int64_t size,
                            const std::function<void(float*)>& pack) {
    const uint64_t id = ConstantWeights::current();
    if (id == 0 || size > Cache::max_floats / 8) {
        float* once = workspace<6>(size);
        pack(once);
        return once;
    }
    thread_local Cache cache;
    if (cache.id != id) {
        for (Entry& entry : cache.entries) entry.w = nullptr;
        cache.id = id;
    }
    for (const Entry& entry : cache.entries)
        if (entry.layout_tag == layout_tag && entry.w == w && entry.size == size) return entry.packed.get();
    Entry entry{layout_tag, w, size, cache.acquire(size)};
    pack(entry.packed.get());
    cache.entries.push_front(std::move(entry));
    cache.total += size;
    return cache.entries.front().packed.get();
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast

// The cache of packed weights: one for each thread, for as long as nobody changes the weights.
#include <deque>
#include <functional>
#include <memory>

#include "cpu/fast/algorithms.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

struct Entry {
    const void *layout_tag, *w;
    std::unique_ptr<float, void (*)(void*)> packed;
    int64_t size;
};

struct Cache {
    static constexpr size_t max_entries = 32;
    static constexpr int64_t max_floats = int64_t(1) << 24;
    uint64_t id = 0;            // the ConstantWeights that these are good for
    int64_t total = 0;          // floats
    std::deque<Entry> entries;  // the newest first

    // Room for `size` floats; the oldest entries go, and the memory of one of this size serves again.
    std::unique_ptr<float, void (*)(void*)> make_room(int64_t size) {
        std::unique_ptr<float, void (*)(void*)> memory{nullptr, release};
        while (!entries.empty() && (entries.size() >= max_entries || total + size > max_floats)) {
            total -= entries.back().size;
            if (entries.back().size == size) memory = std::move(entries.back().packed);
            entries.pop_back();
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
    if (cache.id != id) {  // keep the memory, forget what it holds
        for (Entry& entry : cache.entries) entry.w = nullptr;
        cache.id = id;
    }
    for (const Entry& entry : cache.entries)
        if (entry.layout_tag == layout_tag && entry.w == w && entry.size == size) return entry.packed.get();
    // An entry of another id with the same size serves again.
    for (Entry& entry : cache.entries)
        if (!entry.w && entry.size == size) {
            pack(entry.packed.get());
            entry.layout_tag = layout_tag;
            entry.w = w;
            return entry.packed.get();
        }
    Entry entry{layout_tag, w, cache.make_room(size), size};
    pack(entry.packed.get());
    cache.entries.push_front(std::move(entry));
    cache.total += size;
    return cache.entries.front().packed.get();
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast

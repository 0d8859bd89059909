// Counting in place of computing: what would be launched, and how much memory the launches would move, at sizes that
// are far too large to emulate. Part of cuda_runtime.h; tests/traffic_test.cpp uses it.
//
// While `counter.on`, device memory is address space that is never filled (untouched, it reads as zeros). Kernels,
// GEMMs and copies are counted where they would run, those of graphs at each launch of the graph. Of a kernel only a
// few blocks run, spread evenly over the grid, with their loads and stores recorded:
//
//   traffic of a block   32-byte sectors: the distinct ones that it loads, and the distinct ones that it stores
//   of a kernel          the mean of its sampled blocks, times its blocks. A sector that several blocks load counts for
//                        each of them: this is what passes between the multiprocessors and the L2 cache, with an L1
//                        cache that holds all that a block has touched. Memory itself moves no more than that.
//   of a cuBLAS GEMM     A and B read once, C written once, and read once where it adds to C
//   of a copy            each byte read and written
//
// Loads and stores are recorded by g++'s -fsanitize=thread, which puts a call before each (the Makefile's `counted`
// objects), and by copy_async. Products on the emulated tensor cores are not computed, so data-dependent branches see
// zeros; the kernels have none that matter.
#pragma once
#include <sys/mman.h>

#include <string>
#include <unordered_set>

namespace simt {

struct Traffic {
    double bytes = 0;
    bool product = false;  // of a matrix product: a cuBLAS GEMM, or a kernel that uses the tensor cores
};

struct Counts {
    int64_t kernels = 0, gemms = 0, copies = 0;
    double product_bytes = 0, other_bytes = 0;
    Counts operator-(const Counts& o) const {
        return {kernels - o.kernels, gemms - o.gemms, copies - o.copies, product_bytes - o.product_bytes,
                other_bytes - o.other_bytes};
    }
};

struct Counter {
    bool on = false, recording = false, product = false;
    Counts counts;
    std::unordered_set<uintptr_t> loaded, stored;  // sectors of the block that runs
    std::map<std::string, Traffic> measured;       // by kernel, grid and arguments but for addresses
    char *arena = nullptr, *next = nullptr;
    static constexpr size_t arena_size = size_t(64) << 30;
    static constexpr unsigned samples = 4;
    static constexpr uintptr_t sector = 32;
};
inline Counter counter;

inline bool in_arena(const void* p) {
    const auto* const address = static_cast<const char*>(p);
    return counter.arena && address >= counter.arena && address < counter.arena + Counter::arena_size;
}

// Address space for device memory; null if there is none left.
inline void* reserve(size_t bytes) {
    if (!counter.arena) {
        void* const made = mmap(nullptr, Counter::arena_size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (made == MAP_FAILED) return nullptr;
        madvise(made, Counter::arena_size, MADV_NOHUGEPAGE);  // a touched byte then takes 4 KiB, not 2 MiB
        counter.arena = counter.next = static_cast<char*>(made);
    }
    bytes = (bytes + 511) / 256 * 256;
    if (counter.next + bytes > counter.arena + Counter::arena_size) return nullptr;
    return std::exchange(counter.next, counter.next + bytes);
}

inline void record(std::unordered_set<uintptr_t>& sectors, const void* p, size_t bytes) {
    if (!counter.recording || !in_arena(p)) return;
    const auto first = reinterpret_cast<uintptr_t>(p);
    for (uintptr_t s = first / Counter::sector; s <= (first + bytes - 1) / Counter::sector; ++s) sectors.insert(s);
}
inline void record_load(const void* p, size_t bytes) { record(counter.loaded, p, bytes); }
inline void record_store(const void* p, size_t bytes) { record(counter.stored, p, bytes); }

// `key` with each address in the arena replaced.
inline void append_arguments(std::string& key, const void* argument, size_t bytes) {
    const auto* const data = static_cast<const char*>(argument);
    for (size_t i = 0; i < bytes; i += 8) {
        uintptr_t word = 0;
        std::memcpy(&word, data + i, std::min<size_t>(8, bytes - i));
        key += in_arena(reinterpret_cast<const void*>(word)) ? "p" : std::to_string(word);
        key += ',';
    }
}

// The kernel's traffic. `set_block(i)` and `run()` run its i-th block.
template <class SetBlock, class Run>
Traffic measure_kernel(const std::string& key, unsigned blocks, const SetBlock& set_block, const Run& run) {
    if (const auto known = counter.measured.find(key); known != counter.measured.end()) return known->second;
    const unsigned samples = std::min(blocks, Counter::samples);
    size_t sectors = 0;
    counter.product = false;
    counter.recording = true;
    for (unsigned i = 0; i < samples; ++i) {
        counter.loaded.clear(), counter.stored.clear();
        set_block(unsigned(uint64_t(i) * blocks / samples));
        run();
        sectors += counter.loaded.size() + counter.stored.size();
    }
    counter.recording = false;
    return counter.measured[key] = {double(sectors) * double(Counter::sector) * blocks / samples, counter.product};
}

inline void count(int64_t& kind, const Traffic& traffic) {
    ++kind;
    (traffic.product ? counter.counts.product_bytes : counter.counts.other_bytes) += traffic.bytes;
}

}  // namespace simt

// The emulated GPU's tensor cores and asynchronous copies (cuda_runtime.h). Fragments are laid out over a warp as in
// the PTX ISA, and a warp's threads meet at each instruction. A copy lands when its group is waited for or, with an odd
// number of OpenMP threads, at once: a real GPU may do either.
#pragma once
#include <cstring>

#include "cuda_runtime.h"

namespace simt {

inline unsigned thread_index() { return threadIdx.x + threadIdx.y * blockDim.x; }

// ---- cp.async -----------------------------------------------------------------------------------

struct Copy {
    void* to;
    const void* from;
    size_t bytes;
};
inline std::vector<std::vector<Copy>>& groups() {  // this thread's, oldest first; the last one is still open
    static std::vector<std::vector<Copy>> all[1024];
    auto& mine = all[thread_index()];
    if (mine.empty()) mine.emplace_back();
    return mine;
}
inline void copy_async(void* to, const void* from, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
        die("a misaligned asynchronous copy");
    auto block = machine.blocks.upper_bound(const_cast<void*>(from));
    const bool inside =
        block != machine.blocks.begin() &&
        (--block, static_cast<const char*>(from) + bytes <= static_cast<char*>(block->first) + block->second);
    if (!inside) die("an asynchronous copy from outside device memory");
    record_load(from, bytes);
    if (counter.recording) return;
    if (omp_get_max_threads() % 2 == 1) std::memcpy(to, from, bytes);
    else groups().back().push_back({to, from, bytes});
}
inline void commit_group() { groups().emplace_back(); }
// Waits until all but the newest `pending` groups have landed.
inline void wait_group(size_t pending) {
    auto& mine = groups();
    while (mine.size() > pending + 1) {
        for (const Copy& copy : mine.front()) std::memcpy(copy.to, copy.from, copy.bytes);
        mine.erase(mine.begin());
    }
}

// ---- ldmatrix.x4: each lane points to a row of 16 bytes; lanes 8 i … 8 i + 7 to those of matrix i ----

inline void load_matrices(uint32_t (&words)[4], const uint32_t* row) {
    if (counter.recording) return;
    static const uint32_t* buffers[2][32][32];  // by warp and lane; two, as in multiply_add
    static bool buffer_of[1024];
    if (reinterpret_cast<uintptr_t>(row) % 16) die("a misaligned row of ldmatrix");
    const unsigned warp = thread_index() / 32, lane = thread_index() % 32;
    auto& rows = buffers[buffer_of[thread_index()] ^= true];
    rows[warp][lane] = row;
    __syncwarp();
    for (unsigned matrix = 0; matrix < 4; ++matrix) words[matrix] = rows[warp][matrix * 8 + lane / 4][lane % 4];
}

// ---- mma.sync m16n8k16 (bf16) and m16n8k8 (TF32): 8 words of each row of a and each column of b ----

inline float value_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b, bool bf16) {
    if (counter.recording) {
        counter.product = true;
        return;
    }
    // By warp and lane. Two, used alternately, so that a thread's next fragments do not overwrite what others still
    // read.
    static uint32_t buffers[2][32][32][6];
    static bool buffer_of[1024];
    const unsigned warp = thread_index() / 32, lane = thread_index() % 32;
    auto& fragments = buffers[buffer_of[thread_index()] ^= true];
    std::memcpy(fragments[warp][lane], a, sizeof a);
    std::memcpy(fragments[warp][lane] + 4, b, 2 * sizeof *b);
    __syncwarp();
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned word = 0; word < 8; ++word) {
            const uint32_t word_a = fragments[warp][row % 8 * 4 + word % 4][row / 8 + word / 4 * 2];
            const uint32_t word_b = fragments[warp][column * 4 + word % 4][4 + word / 4];
            if (bf16)
                c[i] += value_of(word_a << 16) * value_of(word_b << 16) +
                        value_of(word_a & 0xffff0000u) * value_of(word_b & 0xffff0000u);
            else c[i] += value_of(word_a & 0xffffe000u) * value_of(word_b & 0xffffe000u);
        }
    }
}

}  // namespace simt

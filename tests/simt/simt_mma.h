// The played GPU's tensor cores and copies for them (cuda_runtime.h). A warp's fragments are put together and taken
// apart as the PTX ISA says; the threads of a warp come to each product together, as they must. A copy lands when its
// group is waited for, not before, or, with an odd number of OpenMP threads, at once: both may be.
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
inline std::vector<std::vector<Copy>>& groups() {  // this thread's, the newest last; the last one is still open
    static std::vector<std::vector<Copy>> all[1024];
    auto& mine = all[thread_index()];
    if (mine.empty()) mine.emplace_back();
    return mine;
}
inline void copy_async(void* to, const void* from, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
        die("a copy that is not aligned");
    auto block = machine.blocks.upper_bound(const_cast<void*>(from));
    const bool inside =
        block != machine.blocks.begin() &&
        (--block, static_cast<const char*>(from) + bytes <= static_cast<char*>(block->first) + block->second);
    if (!inside) die("a copy from beyond the bounds of device memory");
    if (omp_get_max_threads() % 2 == 1) std::memcpy(to, from, bytes);
    else groups().back().push_back({to, from, bytes});
}
inline void commit() { groups().emplace_back(); }
// Until all but the newest `pending` groups have landed.
inline void wait_groups(size_t pending) {
    auto& mine = groups();
    while (mine.size() > pending + 1) {
        for (const Copy& copy : mine.front()) std::memcpy(copy.to, copy.from, copy.bytes);
        mine.erase(mine.begin());
    }
}

// ---- ldmatrix.x4: 16 bytes from each lane's place; the first eight lanes' are the rows of the first matrix, and so on
// ----

inline void load_matrices(uint32_t (&words)[4], const uint32_t* row) {
    static const uint32_t* turns[2][32][32];  // as in multiply_add
    static bool turn_of[1024];
    if (reinterpret_cast<uintptr_t>(row) % 16) die("a row of a matrix that is not aligned");
    const unsigned warp = thread_index() / 32, lane = thread_index() % 32;
    auto& places = turns[turn_of[thread_index()] ^= true];
    places[warp][lane] = row;
    __syncwarp();
    for (unsigned matrix = 0; matrix < 4; ++matrix) words[matrix] = places[warp][matrix * 8 + lane / 4][lane % 4];
}

// ---- mma.sync m16n8k16 (bf16) and m16n8k8 (TF32), 8 words of each row of a and each column of b ----

inline float value_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b, bool bf16) {
    // By warp and lane; in turns, so that a thread's next fragments do not overwrite what others have yet to read.
    static uint32_t turns[2][32][32][6];
    static bool turn_of[1024];
    const unsigned warp = thread_index() / 32, lane = thread_index() % 32;
    auto& fragments = turns[turn_of[thread_index()] ^= true];
    std::memcpy(fragments[warp][lane], a, sizeof a);
    std::memcpy(fragments[warp][lane] + 4, b, 2 * sizeof *b);
    __syncwarp();
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned word = 0; word < 8; ++word) {
            const uint32_t of_a = fragments[warp][row % 8 * 4 + word % 4][row / 8 + word / 4 * 2];
            const uint32_t of_b = fragments[warp][column * 4 + word % 4][4 + word / 4];
            if (bf16)
                c[i] += value_of(of_a << 16) * value_of(of_b << 16) +
                        value_of(of_a & 0xffff0000u) * value_of(of_b & 0xffff0000u);
            else c[i] += value_of(of_a & 0xffffe000u) * value_of(of_b & 0xffffe000u);
        }
    }
}

}  // namespace simt

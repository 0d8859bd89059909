// Sums of matrix products on shifted views in the GPU's tensor cores, one kernel for all the taps of a convolution
// (taps.h):
//
//   result[r, n] = Σ_tap Σ_k a[place(r) + shift(tap), k] b[tap, n, k]
//
// A block makes 128 rows × 128 columns, a warp 64 × 64 of them, or, where there are no more columns, 128 × 64 and 32 ×
// 64, by mma.sync (compute capability 8.0 and later). Its numbers of a and b come to shared memory by cp.async, two
// steps ahead of the products, and from there to registers by ldmatrix; a step is 16 words of 32 bits of a row: 32 bf16
// or 16 TF32, whose fragments are the same, word for word (PTX ISA, "Matrix Fragments for mma.m16n8k16 / mma.m16n8k8"):
// with g = lane / 4 and t = lane % 4,
//
//   a   word 0: row g, word t;  1: row g + 8, word t;  2: row g, word t + 4;  3: row g + 8, word t + 4
//   b   word 0: column g, word t;  1: column g, word t + 4
//   c   0, 1: row g, columns 2t, 2t + 1;  2, 3: row g + 8
//
// All taps meet the same words of a before the next words come: their rows overlap, and are found in the first-level
// cache. In shared memory four words of a row stay together, at the place (chunk ^ row / 2 % 4): the chunks of 8 rows
// that ldmatrix takes at a time, and the 8 chunks that an eighth of a warp writes at a time, lie in different banks.
#pragma once
#include "gpu/conv_common.h"

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")  // what it indexes stays in registers
#else
#include "simt_mma.h"
#define UNROLL
#endif

namespace dualmcmc::DEVICE_NAMESPACE::mma {

constexpr int block_rows = 128, warp_columns = 64, threads = 128;
constexpr int64_t columns_of_block(int64_t columns) { return columns <= 64 ? 64 : 128; }
constexpr int step_words = 16, stages = 3, max_taps = 16, max_phases = 4;

using Words = uint32_t[step_words];  // a row's, of a step

template <class Element>
constexpr int step_size = int(step_words * sizeof(uint32_t) / sizeof(Element));  // elements of a row in a step

#ifdef __CUDACC__
// `ca`: by way of the first-level cache; `cg`: past it.
DEVICE inline void copy_ca(uint32_t* shared, const void* global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
}
DEVICE inline void copy_cg(uint32_t* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
}
DEVICE inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the newest group have come.
DEVICE inline void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(stages - 2) : "memory"); }
// Four matrices of 8 rows × 4 words, whose rows' places the lanes give, eight for each; of each this lane gets row g,
// word t.
DEVICE inline void load_matrices(uint32_t (&words)[4], const uint32_t* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(uint32_t(__cvta_generic_to_shared(row)))
                 : "memory");
}
DEVICE inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b, Bf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b, Tf32) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
inline void copy_ca(uint32_t* shared, const void* global) { ::simt::copy_async(shared, global, 16); }
inline void copy_cg(uint32_t* shared, const void* global) { ::simt::copy_async(shared, global, 16); }
inline void commit() { ::simt::commit(); }
inline void wait() { ::simt::wait_groups(stages - 2); }
inline void load_matrices(uint32_t (&words)[4], const uint32_t* row) { ::simt::load_matrices(words, row); }
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b, Bf16) {
    ::simt::multiply_add(c, a, b, true);
}
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b, Tf32) {
    ::simt::multiply_add(c, a, b, false);
}
#endif

struct Taps {
    int count = 0;
    int64_t offset[max_taps] = {}, weight[max_taps] = {};  // Tap's shift, in numbers of a, and its weight
};

// Results that meet the same taps; the blocks of one phase follow those of another.
struct Phase {
    int64_t rows;
    int first_tap, taps;
    unsigned first_block;
    Pixels pixels;
};

struct Sum {
    int64_t columns, depth;  // of the result; numbers in a row of a and b
    float* y;                // (pixels, columns)
    Epilogue epilogue;
    Taps taps{};  // phase by phase
    int phases = 0;
    unsigned blocks = 0;
    Phase phase[max_phases] = {};

    void add(int64_t rows, const std::vector<Tap>& its_taps, const Pixels& pixels) {
        if (rows == 0) return;
        phase[phases++] = {rows, taps.count, int(its_taps.size()), blocks, pixels};
        blocks += blocks_for(rows, block_rows) * blocks_for(columns, columns_of_block(columns));
        for (const Tap& tap : its_taps) {
            taps.offset[taps.count] = tap.shift * depth;
            taps.weight[taps.count++] = tap.weight;
        }
    }
};

// Whether the kernel can do it: rows of whole steps, results in pairs, and not a few blocks with very many steps, which
// cuBLAS shares out. `rows`, `taps`: of all phases.
template <class Element>
bool applies(int64_t rows, int64_t columns, int64_t depth, int64_t taps) {
    const int64_t blocks = blocks_for(rows, block_rows) * blocks_for(columns, columns_of_block(columns)),
                  steps = taps * depth / step_size<Element>;
    return depth % step_size<Element> == 0 && columns % 2 == 0 && taps <= max_taps && rows > 0 &&
           rows < int64_t(1) << 31 && (blocks >= 16 || steps <= 64);
}

// c += a bᵀ of one step, for a warp's rows of a and of b in shared memory.
template <class Element, int tall>
DEVICE void multiply_step(float (&c)[tall][warp_columns / 8][4], const Words* a, const Words* b, int lane) {
    // Row `row` + lane % 8, whose row / 2 % 4 is lane % 8 / 2.
    const auto at = [lane](const Words* of, int row, int piece) {
        return &of[row + lane % 8][(piece ^ lane % 8 / 2) * 4];
    };
    const int second = lane / 8 % 2, third = lane / 16;
    UNROLL
    for (int half = 0; half < 2; ++half) {
        uint32_t fragment_a[tall][4], fragment_b[warp_columns / 16][4];  // of b two at a time
        UNROLL
        for (int i = 0; i < tall; ++i) load_matrices(fragment_a[i], at(a, i * 16 + second * 8, half * 2 + third));
        UNROLL
        for (int j = 0; j < warp_columns / 16; ++j)
            load_matrices(fragment_b[j], at(b, j * 16 + third * 8, half * 2 + second));
        UNROLL
        for (int i = 0; i < tall; ++i) UNROLL
        for (int j = 0; j < warp_columns / 8; ++j)
            multiply_add(c[i][j], fragment_a[i], fragment_b[j / 2] + j % 2 * 2, Element{});
    }
}

// A warp's results, finished, to their pixels (-1: none) and the columns from `column` on. All of a row is read before
// anything of it is written, which may be the residual: one way to memory and back, not one for each.
template <int tall>
DEVICE void put_results(const Sum& sum, const float (&c)[tall][warp_columns / 8][4], const int64_t* pixel,
                        int64_t column, int lane) {
    using Pair = Pack<float, 2>;
    const int64_t first = column + lane % 4 * 2;
    UNROLL
    for (int i = 0; i < tall; ++i) UNROLL
    for (int half = 0; half < 2; ++half) {
        const int64_t target = pixel[i * 16 + half * 8 + lane / 4], place = target * sum.columns + first;
        if (target < 0) continue;
        Pair results[warp_columns / 8];
        UNROLL
        for (int j = 0; j < warp_columns / 8; ++j)
            if (first + j * 8 < sum.columns)
                results[j] = sum.epilogue(Pair{c[i][j][2 * half], c[i][j][2 * half + 1]}, first + j * 8, place + j * 8);
        UNROLL
        for (int j = 0; j < warp_columns / 8; ++j)
            if (first + j * 8 < sum.columns) *reinterpret_cast<Pair*>(sum.y + place + j * 8) = results[j];
    }
}

template <class Element, int block_columns>
__global__ void __launch_bounds__(threads, 256 / block_columns)
    run_sum(const Element* a, const Element* b, const __grid_constant__ Sum sum) {
    constexpr int row_warps = threads / 32 / (block_columns / warp_columns), warp_rows = block_rows / row_warps;
    alignas(16) __shared__ Words shared[stages][block_rows + block_columns];
    static_assert(sizeof(shared) <= 48 << 10);
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
    int index = 0;
    while (index + 1 < sum.phases && blockIdx.x >= sum.phase[index + 1].first_block) ++index;
    const Phase& phase = sum.phase[index];
    // Blocks of the same rows follow one another.
    const unsigned block = blockIdx.x - phase.first_block,
                   column_blocks = (unsigned(sum.columns) + block_columns - 1) / block_columns;
    const int64_t first_row = int64_t(block / column_blocks) * block_rows,
                  first_column = int64_t(block % column_blocks) * block_columns;
    const int steps = phase.taps * int(sum.depth / step_size<Element>);

    // Each thread brings a chunk of a step of each 32nd row of a, beyond whose end the last one serves, and of each
    // 32nd column of b.
    constexpr int at_once = threads / 4, turns_a = block_rows / at_once, turns_b = block_columns / at_once;
    const int chunk = thread % 4, line = thread / 4, place = (chunk ^ (line / 2 % 4)) * 4;
    const Element *source_a[turns_a], *source_b[turns_b];
    bool
        wanted[turns_b];  // columns beyond the end hold what they may: it stays in their own results, which are dropped
    UNROLL
    for (int i = 0; i < turns_a; ++i) {
        const int64_t row = first_row + line + i * at_once;
        source_a[i] = a + phase.pixels.at(row < phase.rows ? row : phase.rows - 1).place * sum.depth +
                      chunk * (step_size<Element> / 4);
    }
    UNROLL
    for (int i = 0; i < turns_b; ++i) {
        const int64_t column = first_column + line + i * at_once;
        source_b[i] = b + (phase.first_tap * sum.columns + column) * sum.depth + chunk * (step_size<Element> / 4);
        wanted[i] = column < sum.columns;
    }
    int coming = 0, tap = 0, k = 0;  // the stage that is filled next, with what
    int64_t of_b = 0;
    const int64_t tap_size = sum.columns * sum.depth;
    const auto bring = [&] {
        if (k < sum.depth) {
            const int64_t of_a = sum.taps.offset[phase.first_tap + tap] + k;
            UNROLL
            for (int i = 0; i < turns_a; ++i) copy_ca(&shared[coming][line + i * at_once][place], source_a[i] + of_a);
            UNROLL
            for (int i = 0; i < turns_b; ++i)
                if (wanted[i]) copy_cg(&shared[coming][block_rows + line + i * at_once][place], source_b[i] + of_b);
            if (++tap < phase.taps) of_b += tap_size;
            else tap = 0, k += step_size<Element>, of_b = k;
        }
        coming = coming + 1 == stages ? 0 : coming + 1;
        commit();
    };

    const int warp_row = warp % row_warps * warp_rows, warp_column = warp / row_warps * warp_columns;
    const bool idle = first_column + warp_column >= sum.columns;
    float c[warp_rows / 16][warp_columns / 8][4] = {};
    for (int step = 0; step < stages - 1; ++step) bring();
    for (int step = 0, now = 0; step < steps; ++step, now = now + 1 == stages ? 0 : now + 1) {
        wait();
        __syncthreads();  // all threads' chunks have come, and all are done with the stage that is filled next
        bring();
        if (!idle) multiply_step<Element>(c, shared[now] + warp_row, shared[now] + block_rows + warp_column, lane);
    }

    __syncthreads();  // nobody reads the stages any more: they serve for the rows' pixels
    auto* const pixel = reinterpret_cast<int64_t*>(&shared[0][0][0]);
    pixel[thread] = first_row + thread < phase.rows ? phase.pixels.at(first_row + thread).pixel : -1;
    static_assert(threads == block_rows);
    __syncthreads();
    if (!idle) put_results(sum, c, pixel + warp_row, first_column + warp_column, lane);
}

template <class Element>
void launch_sum(const Element* a, const Element* b, const Sum& sum) {
    if (sum.blocks > 0)
        launch(sum.blocks, threads, columns_of_block(sum.columns) == 64 ? run_sum<Element, 64> : run_sum<Element, 128>,
               a, b, sum);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::mma

// Implicit GEMM of a convolution in the GPU's tensor cores, one kernel for all taps (conv_geometry.h):
//
//   y[m, n] = Σ_tap Σ_c a[padded(m) + shift(tap), c] b[tap, n, c]
//
// M = output pixels, N = output channels, K = channels of a × taps. (In dgrad the output is dx, and a is dy.)
//
// The CTA tile is 128 × 128, of four warp tiles of 64 × 64; where N <= 64 it is 128 × 64, of warp tiles of 32 × 64.
// The arithmetic is mma.sync (compute capability 8.0 and later). cp.async brings K tiles of a and b to shared memory,
// two stages ahead; ldmatrix brings them to registers. A K tile is 16 words of 32 bits of each row: 32 bf16 or 16 TF32,
// whose fragments are the same, word for word (PTX ISA, "Matrix Fragments for mma.m16n8k16 / mma.m16n8k8"). With
// g = lane / 4 and t = lane % 4,
//
//   a   word 0: row g, word t;  1: row g + 8, word t;  2: row g, word t + 4;  3: row g + 8, word t + 4
//   b   word 0: column g, word t;  1: column g, word t + 4
//   c   0, 1: row g, columns 2t, 2t + 1;  2, 3: row g + 8
//
// Taps are the inner loop and channels the outer one: the rows of a that the taps read overlap and hit in L1.
//
// Shared memory is swizzled: the 16-byte vector v of a row is stored as vector v ^ (row / 2 % 4). So the vectors of 8
// rows that ldmatrix reads together, and the 8 that a quarter-warp writes together, lie in different banks.
#pragma once
#include "gpu/conv_common.h"

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")  // so that the arrays it indexes stay in registers
#else
#include "simt_mma.h"
#define UNROLL
#endif

namespace dualmcmc::DEVICE_NAMESPACE::mma {

constexpr int tile_m = 128, warp_n = 64, cta_threads = 128;
constexpr int64_t choose_tile_n(int64_t n) { return n <= 64 ? 64 : 128; }
constexpr int k_tile_words = 16, stages = 3, max_taps = 16, max_groups = 4;

using TileRow = uint32_t[k_tile_words];  // one row's part of a K tile

template <class Element>
constexpr int tile_k = int(sizeof(TileRow) / sizeof(Element));  // elements of a row in a K tile

// ---- PTX, and its emulation for the tests -------------------------------------------------------

#ifdef __CUDACC__
// cp.async of 16 bytes, by way of the L1 cache (ca) or past it (cg).
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
DEVICE inline void commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all but the newest stages - 2 groups have landed.
DEVICE inline void wait_group() { asm volatile("cp.async.wait_group %0;" ::"n"(stages - 2) : "memory"); }
// ldmatrix: four matrices of 8 rows × 4 words. Lanes 8 i … 8 i + 7 point to the rows of matrix i; each lane receives
// row g, word t of every matrix.
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
inline void commit_group() { ::simt::commit_group(); }
inline void wait_group() { ::simt::wait_group(stages - 2); }
inline void load_matrices(uint32_t (&words)[4], const uint32_t* row) { ::simt::load_matrices(words, row); }
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b, Bf16) {
    ::simt::multiply_add(c, a, b, true);
}
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b, Tf32) {
    ::simt::multiply_add(c, a, b, false);
}
#endif

// ---- the problem --------------------------------------------------------------------------------

struct TapList {
    int count = 0;
    int64_t a_offset[max_taps] = {}, weight[max_taps] = {};  // Tap's shift, in elements of a, and its weight
};

// Rows that meet the same taps: all of fprop's, or one stride phase of dgrad's. CTAs are numbered group by group.
struct GemmGroup {
    int64_t m;
    int first_tap, taps;
    unsigned first_cta;
    RowMap rows;
};

struct ImplicitGemm {
    int64_t n, channels;  // K of a single tap
    float* y;             // (output pixels, n)
    Epilogue epilogue;
    TapList taps{};  // of all groups, one group after the other
    int groups = 0;
    unsigned ctas = 0;
    GemmGroup group[max_groups] = {};

    void add_group(int64_t m, const std::vector<Tap>& its_taps, const RowMap& rows) {
        if (m == 0) return;
        group[groups++] = {m, taps.count, int(its_taps.size()), ctas, rows};
        ctas += blocks_for(m, tile_m) * blocks_for(n, choose_tile_n(n));
        for (const Tap& tap : its_taps) {
            taps.a_offset[taps.count] = tap.shift * channels;
            taps.weight[taps.count++] = tap.weight;
        }
    }
};

// Whether the kernel applies: whole K tiles, results in pairs, and not a few CTAs with very many K tiles, which cuBLAS
// splits. `m` and `taps` count all groups.
template <class Element>
bool applies(int64_t m, int64_t n, int64_t channels, int64_t taps) {
    const int64_t ctas = blocks_for(m, tile_m) * blocks_for(n, choose_tile_n(n)),
                  k_tiles = taps * channels / tile_k<Element>;
    return channels % tile_k<Element> == 0 && n % 2 == 0 && taps <= max_taps && m > 0 && m < int64_t(1) << 31 &&
           (ctas >= 16 || k_tiles <= 64);
}

// ---- the kernel ---------------------------------------------------------------------------------

// Copies a CTA's K tiles from a and b to the stages in shared memory. A thread copies one 16-byte vector of every 32nd
// row of a and of every 32nd column of b.
template <class Element, int tile_n>
struct StageLoader {
    static constexpr int lines = cta_threads / 4, loads_a = tile_m / lines, loads_b = tile_n / lines;
    const Element *source_a[loads_a], *source_b[loads_b];
    bool inside_b[loads_b];
    int line, word;               // where this thread writes in a stage
    int tap = 0;                  // the next K tile's tap,
    int64_t k = 0, b_offset = 0;  // its first channel, and its offset in b

    DEVICE StageLoader(const Element* a, const Element* b, const ImplicitGemm& gemm, const GemmGroup& group,
                       int64_t first_m, int64_t first_n) {
        const int vector = int(threadIdx.x) % 4;
        line = int(threadIdx.x) / 4;
        word = (vector ^ (line / 2 % 4)) * 4;
        UNROLL
        for (int i = 0; i < loads_a; ++i) {  // rows beyond M repeat the last one
            const int64_t row = first_m + line + i * lines;
            source_a[i] = a + group.rows.at(row < group.m ? row : group.m - 1).padded * gemm.channels +
                          vector * (tile_k<Element> / 4);
        }
        UNROLL
        for (int i = 0; i < loads_b; ++i) {  // columns beyond N stay undefined; their results are not stored
            const int64_t column = first_n + line + i * lines;
            source_b[i] = b + (group.first_tap * gemm.n + column) * gemm.channels + vector * (tile_k<Element> / 4);
            inside_b[i] = column < gemm.n;
        }
    }

    // Starts to copy the next K tile to `stage`; beyond the last one copies nothing.
    DEVICE void load(TileRow* stage, const ImplicitGemm& gemm, const GemmGroup& group) {
        if (k < gemm.channels) {
            const int64_t a_offset = gemm.taps.a_offset[group.first_tap + tap] + k;
            UNROLL
            for (int i = 0; i < loads_a; ++i) copy_ca(&stage[line + i * lines][word], source_a[i] + a_offset);
            UNROLL
            for (int i = 0; i < loads_b; ++i)
                if (inside_b[i]) copy_cg(&stage[tile_m + line + i * lines][word], source_b[i] + b_offset);
            if (++tap < group.taps) b_offset += gemm.n * gemm.channels;
            else tap = 0, k += tile_k<Element>, b_offset = k;
        }
        commit_group();
    }
};

// c += a bᵀ of one K tile, for a warp's rows of a and of b in shared memory.
template <class Element, int m_frags>
DEVICE void multiply_k_tile(float (&c)[m_frags][warp_n / 8][4], const TileRow* a, const TileRow* b, int lane) {
    // A vector of row `row` + lane % 8. `row` is a multiple of 8, so the swizzle is the lane's alone.
    const auto swizzled = [lane](const TileRow* tile, int row, int vector) {
        return &tile[row + lane % 8][(vector ^ lane % 8 / 2) * 4];
    };
    const int low = lane / 8 % 2, high = lane / 16;  // of ldmatrix's four matrices, the one that the lane points to
    UNROLL
    for (int half = 0; half < 2; ++half) {
        uint32_t fragment_a[m_frags][4], fragment_b[warp_n / 16][4];  // of b two at a time
        UNROLL
        for (int i = 0; i < m_frags; ++i) load_matrices(fragment_a[i], swizzled(a, i * 16 + low * 8, half * 2 + high));
        UNROLL
        for (int j = 0; j < warp_n / 16; ++j)
            load_matrices(fragment_b[j], swizzled(b, j * 16 + high * 8, half * 2 + low));
        UNROLL
        for (int i = 0; i < m_frags; ++i) UNROLL
        for (int j = 0; j < warp_n / 8; ++j)
            multiply_add(c[i][j], fragment_a[i], fragment_b[j / 2] + j % 2 * 2, Element{});
    }
}

// Stores a warp tile after the epilogue: its rows at `pixel` (-1: beyond M), its columns from first_n on. All that a
// row needs is loaded together, before any result is stored (the residual may be y): one round trip a row.
template <int m_frags>
DEVICE void store_warp_tile(const ImplicitGemm& gemm, const float (&c)[m_frags][warp_n / 8][4], const int64_t* pixel,
                            int64_t first_n, int lane) {
    using Pair = AlignedArray<float, 2>;
    const int64_t column = first_n + lane % 4 * 2;
    const auto [bias, mask, residual] = gemm.epilogue;
    UNROLL
    for (int i = 0; i < m_frags; ++i) UNROLL
    for (int half = 0; half < 2; ++half) {
        const int64_t row = pixel[i * 16 + half * 8 + lane / 4];
        if (row < 0) continue;
        Pair masks_or_biases[warp_n / 8] = {}, residuals[warp_n / 8] = {};
        const auto load = [&](Pair* to, const float* from) {
            UNROLL
            for (int j = 0; j < warp_n / 8; ++j)
                to[j] = *reinterpret_cast<const Pair*>(from + (column + j * 8 < gemm.n ? column + j * 8 : gemm.n - 2));
        };
        if (mask || bias) load(masks_or_biases, mask ? mask + row * gemm.n : bias);
        if (residual) load(residuals, residual + row * gemm.n);
        UNROLL
        for (int j = 0; j < warp_n / 8; ++j) {
            Pair result;
            for (int k = 0; k < 2; ++k)
                result.values[k] =
                    gemm.epilogue.apply(c[i][j][2 * half + k], masks_or_biases[j].values[k], residuals[j].values[k]);
            if (column + j * 8 < gemm.n) *reinterpret_cast<Pair*>(gemm.y + row * gemm.n + column + j * 8) = result;
        }
    }
}

template <class Element, int tile_n>
__global__ void __launch_bounds__(cta_threads, 256 / tile_n)
    implicit_gemm_kernel(const Element* a, const Element* b, const __grid_constant__ ImplicitGemm gemm) {
    constexpr int m_warps = cta_threads / 32 / (tile_n / warp_n), warp_m = tile_m / m_warps;
    alignas(16) __shared__ TileRow shared[stages][tile_m + tile_n];
    static_assert(sizeof(shared) <= 48 << 10);
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
    int index = 0;
    while (index + 1 < gemm.groups && blockIdx.x >= gemm.group[index + 1].first_cta) ++index;
    const GemmGroup& group = gemm.group[index];
    // CTAs of the same rows follow one another.
    const unsigned cta = blockIdx.x - group.first_cta, n_tiles = (unsigned(gemm.n) + tile_n - 1) / tile_n;
    const int64_t first_m = int64_t(cta / n_tiles) * tile_m, first_n = int64_t(cta % n_tiles) * tile_n;
    const int k_tiles = group.taps * int(gemm.channels / tile_k<Element>);

    StageLoader<Element, tile_n> loader(a, b, gemm, group, first_m, first_n);
    const int warp_row = warp % m_warps * warp_m, warp_column = warp / m_warps * warp_n;
    const bool idle = first_n + warp_column >= gemm.n;
    float c[warp_m / 16][warp_n / 8][4] = {};
    int write_stage = 0;
    const auto load_stage = [&] {
        loader.load(shared[write_stage], gemm, group);
        write_stage = write_stage + 1 == stages ? 0 : write_stage + 1;
    };
    for (int k_tile = 0; k_tile < stages - 1; ++k_tile) load_stage();
    for (int k_tile = 0, read_stage = 0; k_tile < k_tiles; ++k_tile) {
        wait_group();
        __syncthreads();  // all threads' copies to read_stage have landed, and nobody reads write_stage any more
        load_stage();
        if (!idle)
            multiply_k_tile<Element>(c, shared[read_stage] + warp_row, shared[read_stage] + tile_m + warp_column, lane);
        read_stage = read_stage + 1 == stages ? 0 : read_stage + 1;
    }

    __syncthreads();  // nobody reads the stages any more: they now hold the rows' pixels
    auto* const pixel = reinterpret_cast<int64_t*>(&shared[0][0][0]);
    pixel[thread] = first_m + thread < group.m ? group.rows.at(first_m + thread).pixel : -1;
    static_assert(cta_threads == tile_m);
    __syncthreads();
    if (!idle) store_warp_tile(gemm, c, pixel + warp_row, first_n + warp_column, lane);
}

template <class Element>
void launch_implicit_gemm(const Element* a, const Element* b, const ImplicitGemm& gemm) {
    const auto kernel =
        choose_tile_n(gemm.n) == 64 ? implicit_gemm_kernel<Element, 64> : implicit_gemm_kernel<Element, 128>;
    if (gemm.ctas > 0) launch(gemm.ctas, cta_threads, kernel, a, b, gemm);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::mma

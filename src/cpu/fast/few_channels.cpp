// 3×3 convolution at stride 1 with at most three output channels: an image's colours.
//
// Three output channels would leave most of a vector idle. Instead one GEMM computes the outputs of all taps side by
// side, z[q, t, o] = Σ_i x[q, i] w[t, i, o] for every pixel q, and col2im (im2col's adjoint) adds them up:
// y[p, o] = Σ_t z[p + t - padding, t, o] over the q inside the image. dgrad is the same with dy for x and
// q = p + padding - t.
#include "cpu/fast/algorithms.h"
#include "cpu/fast/tiles.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

constexpr int64_t taps = 9;

typedef float Vector4 __attribute__((vector_size(16), aligned(4)));
static_assert(alignof(Vector4) == alignof(float));

// Tap (kh, kw) of output pixel p reads input pixel p + direction (kh, kw) + shift.
struct Geometry {
    int64_t batch, height, width, in, out_height, out_width, out, direction, shift;
};

// y (out_height, out_width, out) of one image from z (height, width, columns).
template <int out>
void col2im(float* y, const float* z, int64_t columns, const float* bias, const Geometry& s) {
    Vector4 start{};
    for (int64_t o = 0; bias && o < s.out; ++o) start[o] = bias[o];
    // Offsets in z relative to the first tap. Vectors of four are added where `out` is at most three; the rest is
    // unused.
    int64_t offset[taps];
    for (int64_t tap = 0; tap < taps; ++tap)
        offset[tap] = (s.direction * (tap / 3 * s.width + tap % 3)) * columns + tap * s.out;
    const auto inside = [](int64_t from, int64_t size) { return from >= 0 && from < size; };
    for (int64_t row = 0; row < s.out_height; ++row) {
        const int64_t from_row = row + s.shift, last_row = from_row + 2 * s.direction;
        const bool whole_rows = inside(from_row, s.height) && inside(last_row, s.height);
        for (int64_t column = 0; column < s.out_width; ++column, y += out) {
            const int64_t from_column = column + s.shift, last_column = from_column + 2 * s.direction;
            const float* source = z + (from_row * s.width + from_column) * columns;
            Vector4 total = start;
            if (whole_rows && inside(from_column, s.width) && inside(last_column, s.width))
                unroll<taps>([&](auto tap)
                                 INLINE { total += *reinterpret_cast<const Vector4*>(source + offset[tap]); });
            else
                for (int64_t tap = 0; tap < taps; ++tap)
                    if (inside(from_row + tap / 3 * s.direction, s.height) &&
                        inside(from_column + tap % 3 * s.direction, s.width))
                        total += *reinterpret_cast<const Vector4*>(source + offset[tap]);
            for (int o = 0; o < out; ++o) y[o] = total[o];
        }
    }
}

// element(tap, i, o) reads the weight. `tags`: two of packed_weights' layout tags.
template <class Element>
void convolve(float* y, const float* x, const float* w, const float* bias, const Geometry& s, bool amx,
              const char* tags, Element element) {
    const Panels columns(s.in, taps * s.out);
    const int64_t pixels = s.height * s.width, width = columns.padded_out(), size = columns.in * width;
    const auto pack = [&](float* packed) {
        pack_weights(packed, columns, 1,
                     [&](int64_t, int64_t i, int64_t column) { return element(column / s.out, i, column % s.out); });
    };
    bool amx_tiles = false;
    const float* packed = nullptr;
    if constexpr (lanes == 16) {
        amx_tiles = amx && columns.count() == 1 && amx_gemm_applies(pixels, width, s.in);
        if (amx_tiles)
            packed = packed_weights(&tags[1], w, amx_packed_size(width, s.in), [&](float* to) {
                float* rows = workspace<0>(size);
                pack(rows);
                amx_pack(to, rows, width, s.in);
            });
    }
    if (!amx_tiles) packed = packed_weights(&tags[0], w, size, pack);
    parallel_dynamic(s.batch, [&](int64_t image) {
        float* z = workspace<2>(pixels * width + 4);
        const float* source = x + image * pixels * s.in;
        if constexpr (lanes == 16)
            if (amx_tiles) amx_gemm(z, source, packed, pixels, width, s.in);
        for (int64_t panel = 0; !amx_tiles && panel < columns.count(); ++panel) {
            const int64_t first = panel * columns.panel_width();
            panel_gemm(z + first, width, source, s.in, pixels, s.in, columns.vectors(panel), packed + first * s.in);
        }
        dispatch<3>(int(s.out),
                    [&](auto out) { col2im<out>(y + image * s.out_height * s.out_width * s.out, z, width, bias, s); });
    });
}

}  // namespace

void few_channels(float* y, const float* x, const float* w, const float* bias, const float* residual,
                  const ConvShape& s, bool amx) {
    if (s.relu) {
        float* positive = workspace<4>(s.x_size());
        leaky_relu(positive, x, 0, s.x_size());
        x = positive;
    }
    static const char tags[2] = {};
    convolve(y, x, w, bias, {s.batch, s.height, s.width, s.in, s.out_height(), s.out_width(), s.out, 1, -s.padding},
             amx, tags, [=](int64_t tap, int64_t i, int64_t o) { return w[(tap * s.in + i) * s.out + o]; });
    if (residual) add(y, y, residual, s.y_size());
}

void few_channels_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                                 const ConvShape& s, bool amx) {
    float* own = residual ? workspace<4>(s.x_size()) : dx;  // the residual may be dx itself
    static const char tags[2] = {};
    convolve(own, dy, w, nullptr,
             {s.batch, s.out_height(), s.out_width(), s.out, s.height, s.width, s.in, -1, s.padding}, amx, tags,
             [=](int64_t tap, int64_t o, int64_t i) { return w[(tap * s.in + i) * s.out + o]; });
    if (s.relu) leaky_relu_backward(own, x, own, 0, s.x_size());
    if (residual) add(dx, own, residual, s.x_size());
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast

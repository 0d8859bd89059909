// fprop and dgrad of a convolution in the GPU's tensor cores, all taps in one kernel (mma.h):
//
//   many channels   implicit GEMM on the padded images; dgrad at stride s has s² groups of rows, one a phase
//   few inputs      (an image's colours) im2col: the elements under the kernel make one row of a; a single tap
//   few outputs     col2im: z[q, tap, f] = Σ_c x[q, c] w[tap, c, f], once for each source pixel q, the taps side by
//                   side as columns of b; then y[p, f] = Σ_tap z[the pixel that p meets under the tap, tap, f]
#include "gpu/conv_patches.h"
#include "gpu/mma.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// ---- many channels ------------------------------------------------------------------------------

// w (kernel², in, out) of these taps as (tap, n, channels): n and channels are out and in or, for dgrad, in and out.
// `channels` is a multiple of 8, and so many values are one index's: neighbouring indices read neighbouring values, and
// each writes whole vectors.
template <bool dgrad, class Element>
const Element* packed_weights(const float* w, const ConvShape& s, const mma::TapList& taps) {
    constexpr int values = 8;
    const int64_t n = dgrad ? s.in : s.out, channels = dgrad ? s.out : s.in, size = n * channels;
    const int64_t n_stride = dgrad ? s.out : 1, channel_stride = dgrad ? 1 : s.out, vectors = channels / values;
    Element* to = workspace<Element>(weight_slot, taps.count * size);
    parallel_for(taps.count * size / values, [=] DEVICE(int64_t index) {
        const int64_t tap = index / (size / values), column = dgrad ? index / vectors % n : index % n;
        const int64_t channel = (dgrad ? index % vectors : index / n % vectors) * values;
        const float* from = w + taps.weight[tap] * size + column * n_stride + channel * channel_stride;
        AlignedArray<Element, values> converted;
        for (int i = 0; i < values; ++i) convert(converted.values[i], from[i * channel_stride]);
        *reinterpret_cast<AlignedArray<Element, values>*>(to + (tap * n + column) * channels + channel) = converted;
    });
    return to;
}

// ---- few channels -------------------------------------------------------------------------------

// w as b (n, k), zero-padded: of the few channels f and the many m, one side is m and the other (tap, f).
template <class Element>
const Element* packed_few_channels(const float* w, const ConvShape& s, int64_t n, int64_t k, bool few_are_in,
                                   bool taps_in_k) {
    const int64_t few = few_are_in ? s.in : s.out, many = few_are_in ? s.out : s.in, patch = s.kernel * s.kernel * few,
                  in = s.in, out = s.out;
    Element* to = workspace<Element>(weight_slot, n * k);
    parallel_for(n * k, [=] DEVICE(int64_t index) {
        const int64_t column = index / k, row = index % k, e = taps_in_k ? row : column, m = taps_in_k ? column : row;
        const int64_t f = e % few, i = few_are_in ? f : m, o = few_are_in ? m : f;
        convert(to[index], e < patch && m < many ? w[(e / few * in + i) * out + o] : 0);
    });
    return to;
}

// y (m, n) = a (m, k) b (n, k)ᵀ.
template <class Element>
void gemm(float* y, const Element* a, const Element* b, int64_t m, int64_t n, int64_t k, const Epilogue& epilogue) {
    mma::ImplicitGemm problem{n, k, y, epilogue};
    problem.add_group(m, {{0, 0}}, identity_row_map(m));
    mma::launch_implicit_gemm(a, b, problem);
}

template <class Element>
bool im2col_conv(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& s,
                 const TapWindow& window, bool few_are_in) {
    const int64_t few = few_are_in ? s.in : s.out, n = few_are_in ? s.out : s.in, patch = s.kernel * s.kernel * few;
    const int64_t k = round_up(patch, mma::tile_k<Element>), m = window.out_pixels();
    if (patch > max_patch || !mma::applies<Element>(m, n, k, 1)) return false;
    const Element* patches = im2col<Element>(source_slot, x, window, few, k);
    gemm(y, patches, packed_few_channels<Element>(w, s, n, k, few_are_in, true), m, n, k, epilogue);
    return true;
}

template <class Element>
bool col2im_conv(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& s,
                 const TapWindow& window, bool few_are_in) {
    const int64_t few = few_are_in ? s.in : s.out, k = few_are_in ? s.out : s.in, kernel = s.kernel;
    const int64_t n = round_up(kernel * kernel * few, 2), m = window.batch * window.height * window.width;
    if (s.stride != 1 || n > max_patch || !mma::applies<Element>(m, n, k, 1)) return false;
    Element* source = workspace<Element>(source_slot, m * k);
    convert_array(source, x, m * k);
    float* z = workspace<float>(result_slot, m * n);
    gemm(z, source, packed_few_channels<Element>(w, s, n, k, few_are_in, false), m, n, k, {});
    parallel_for_rows(window.out_pixels(), few, [=] DEVICE(int64_t pixel) {
        const TapWindow::Origin origin = window.origin(pixel);
        return [=](int64_t f) {
            float total = 0;
            for (int64_t kh = 0; kh < kernel; ++kh)
                for (int64_t kw = 0; kw < kernel; ++kw) {
                    const int64_t q = window.source_pixel(origin, kh, kw);
                    if (q >= 0) total += z[q * n + (kh * kernel + kw) * few + f];
                }
            y[pixel * few + f] = epilogue(AlignedArray<float, 1>{total}, f, pixel * few + f).values[0];
        };
    });
    return true;
}

}  // namespace

template <class Element>
bool mma_forward(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& shape) {
    const ConvShape s = lowered_shape(shape);
    const int64_t m = s.y_size() / s.out;
    if (!mma::applies<Element>(m, s.out, s.in, s.kernel * s.kernel)) {
        if (shape.relu || shape.pool) return false;
        const TapWindow window = fprop_window(s);
        return col2im_conv<Element>(y, x, w, epilogue, s, window, false) ||
               im2col_conv<Element>(y, x, w, epilogue, s, window, true);
    }
    const PaddedImages source = fprop_source(s);
    mma::ImplicitGemm gemm{s.out, s.in, y, epilogue};
    gemm.add_group(m, fprop_taps(s, source), row_map(source, fprop_output(s), 0));
    mma::launch_implicit_gemm(padded_source<Element>(source_slot, x, source, s.in, {shape.relu, shape.pool}),
                              packed_weights<false, Element>(w, s, gemm.taps), gemm);
    return true;
}

template <class Element>
bool mma_backward_input(float* dx, const float* dy, const float* w, const Epilogue& epilogue, const ConvShape& shape) {
    const ConvShape s = lowered_shape(shape);
    const int64_t phases = s.stride * s.stride, pixels = s.x_size() / s.in;
    const bool each_phase_has_taps = s.kernel >= s.stride;
    if (!each_phase_has_taps || phases > mma::max_groups ||
        !mma::applies<Element>(pixels, s.in, s.out, s.kernel * s.kernel)) {
        if (shape.pool || s.stride != 1) return false;
        const TapWindow window = dgrad_window(s);
        return col2im_conv<Element>(dx, dy, w, epilogue, s, window, true) ||
               im2col_conv<Element>(dx, dy, w, epilogue, s, window, false);
    }
    const PaddedImages source = dgrad_source(s);
    float* result = shape.pool ? workspace<float>(result_slot, s.x_size()) : dx;
    mma::ImplicitGemm gemm{s.in, s.out, result, shape.pool ? Epilogue{} : epilogue};
    for (int64_t phase = 0; phase < phases; ++phase) {
        const RowMap rows = row_map(source, dgrad_output(s), phase);
        gemm.add_group(s.batch * rows.rows_per_image(), dgrad_taps(s, source, phase), rows);
    }
    mma::launch_implicit_gemm(padded_source<Element>(source_slot, dy, source, s.out),
                              packed_weights<true, Element>(w, s, gemm.taps), gemm);
    if (shape.pool) {
        const PaddedImages unpadded{s.batch, 0, {s.height, 1, 0, s.height}, {s.width, 1, 0, s.width}};
        gather(dx, result, epilogue, true, unpadded, {s.height, s.width, 1, 0, 0}, s.in);
    }
    return true;
}

template bool mma_forward<Bf16>(float*, const float*, const float*, const Epilogue&, const ConvShape&);
template bool mma_forward<Tf32>(float*, const float*, const float*, const Epilogue&, const ConvShape&);
template bool mma_backward_input<Bf16>(float*, const float*, const float*, const Epilogue&, const ConvShape&);
template bool mma_backward_input<Tf32>(float*, const float*, const float*, const Epilogue&, const ConvShape&);

}  // namespace dualmcmc::DEVICE_NAMESPACE

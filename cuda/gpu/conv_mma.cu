// Convolutions by the GPU's tensor cores alone: all taps in one kernel (gpu_mma.h), whose results go where they belong.
//
//   many channels     the sum of all taps over the haloed image; of the gradient at stride s, one such sum for each of
//   s² phases few to many       an image's colours: the numbers under the kernel, side by side, are one row of a; a
//   single tap many to few       the taps side by side are b's columns: z[q, tap, f] = Σ_k x[q, k] w[tap, k, f] for
//   every pixel q of the source, once, and
//                     y[p, f] = Σ_tap z[p's pixel under the tap, tap, f]
#include "gpu/mma.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// ---- many channels ------------------------------------------------------------------------------

// w (kernel², in, out) of these taps as (tap, columns, depth): columns and depth are out and in, or, for the gradient
// of x, in and out. Depth is a multiple of 8: an index makes as many numbers, so that neighbouring ones read side by
// side and each fills what it writes.
template <bool backward, class Element>
const Element* packed(const float* w, const ConvShape& s, const mma::Taps& taps) {
    constexpr int many = 8;
    const int64_t columns = backward ? s.in : s.out, depth = backward ? s.out : s.in, size = columns * depth;
    const int64_t column_step = backward ? s.out : 1, depth_step = backward ? 1 : s.out, pieces = depth / many;
    Element* to = workspace<Element>(weight_slot, taps.count * size);
    parallel_for(taps.count * size / many, [=] DEVICE(int64_t index) {
        const int64_t tap = index / (size / many), column = backward ? index / pieces % columns : index % columns;
        const int64_t k = (backward ? index % pieces : index / columns % pieces) * many;
        const float* from = w + taps.weight[tap] * size + column * column_step + k * depth_step;
        Pack<Element, many> made;
        for (int i = 0; i < many; ++i) round_to(made.values[i], from[i * depth_step]);
        *reinterpret_cast<Pack<Element, many>*>(to + (tap * columns + column) * depth + k) = made;
    });
    return to;
}

// ---- few channels -------------------------------------------------------------------------------

constexpr int64_t max_few = 128;  // numbers under a kernel, or columns of its taps

// Which pixel of the source a pixel of the result meets under tap (kh, kw): its own times the stride, plus direction
// (kh, kw) + shift.
struct Window {
    int64_t batch, height, width, out_height, out_width, kernel, stride, direction,
        shift;  // height, width: of the source
    struct Corner {
        int64_t image, row, column;  // where tap (0, 0) meets the source
    };
    DEVICE Corner corner(int64_t pixel) const {
        return {pixel / (out_width * out_height), pixel / out_width % out_height * stride + shift,
                pixel % out_width * stride + shift};
    }
    DEVICE int64_t source(const Corner& c, int64_t kh, int64_t kw) const {  // -1: there is none
        const int64_t row = c.row + direction * kh, column = c.column + direction * kw;
        return row >= 0 && row < height && column >= 0 && column < width ? (c.image * height + row) * width + column
                                                                         : -1;
    }
    int64_t pixels() const { return batch * out_height * out_width; }
};
Window forward_window(const ConvShape& s) {
    return {s.batch, s.height, s.width, s.out_height(), s.out_width(), s.kernel, s.stride, 1, -s.padding};
}
// At stride 1: the source is dy.
Window backward_window(const ConvShape& s) {
    return {s.batch, s.out_height(), s.out_width(), s.height, s.width, s.kernel, 1, -1, s.padding};
}

// w for the few channels f and the many m as (columns, depth), each filled up with zeros: (m, (tap, f)), or the other
// way round.
template <class Element>
const Element* packed_few(const float* w, const ConvShape& s, int64_t columns, int64_t depth, bool few_are_in,
                          bool taps_are_depth) {
    const int64_t few = few_are_in ? s.in : s.out, many = few_are_in ? s.out : s.in, seen = s.kernel * s.kernel * few,
                  in = s.in, out = s.out;
    Element* to = workspace<Element>(weight_slot, columns * depth);
    parallel_for(columns * depth, [=] DEVICE(int64_t index) {
        const int64_t column = index / depth, k = index % depth, e = taps_are_depth ? k : column,
                      m = taps_are_depth ? column : k;
        const int64_t f = e % few, i = few_are_in ? f : m, o = few_are_in ? m : f;
        round_to(to[index], e < seen && m < many ? w[(e / few * in + i) * out + o] : 0);
    });
    return to;
}

int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// y (rows, columns) = a (rows, depth) b (columns, depth)ᵀ.
template <class Element>
void matrix_product(float* y, const Element* a, const Element* b, int64_t rows, int64_t columns, int64_t depth,
                    const Epilogue& epilogue) {
    mma::Sum sum{columns, depth, y, epilogue};
    sum.add(rows, {{0, 0}}, pixels_in_order(rows));
    mma::launch_sum(a, b, sum);
}

template <class Element>
bool few_to_many(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& s,
                 const Window& window, bool few_are_in) {
    const int64_t few = few_are_in ? s.in : s.out, many = few_are_in ? s.out : s.in, seen = s.kernel * s.kernel * few;
    const int64_t depth = rounded_up(seen, mma::step_size<Element>);
    if (seen > max_few || !mma::applies<Element>(window.pixels(), many, depth, 1)) return false;
    Element* patches = workspace<Element>(source_slot, window.pixels() * depth);
    const uint32_t divisor = uint32_t(few), kernel = uint32_t(s.kernel);
    parallel_for_rows(window.pixels(), depth, [=] DEVICE(int64_t pixel) {
        const Window::Corner corner = window.corner(pixel);
        return [=](int64_t e) {
            const uint32_t tap = uint32_t(e) / divisor;
            const int64_t source = e < seen ? window.source(corner, tap / kernel, tap % kernel) : -1;
            round_to(patches[pixel * depth + e], source < 0 ? 0 : x[source * few + uint32_t(e) % divisor]);
        };
    });
    matrix_product(y, patches, packed_few<Element>(w, s, many, depth, few_are_in, true), window.pixels(), many, depth,
                   epilogue);
    return true;
}

template <class Element>
bool many_to_few(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& s,
                 const Window& window, bool few_are_in) {
    const int64_t few = few_are_in ? s.in : s.out, many = few_are_in ? s.out : s.in, kernel = s.kernel;
    const int64_t columns = rounded_up(kernel * kernel * few, 2), rows = window.batch * window.height * window.width;
    if (s.stride != 1 || columns > max_few || !mma::applies<Element>(rows, columns, many, 1)) return false;
    Element* source = workspace<Element>(source_slot, rows * many);
    round_all(source, x, rows * many);
    float* z = workspace<float>(target_slot, rows * columns);
    matrix_product(z, source, packed_few<Element>(w, s, columns, many, few_are_in, false), rows, columns, many, {});
    parallel_for_rows(window.pixels(), few, [=] DEVICE(int64_t pixel) {
        const Window::Corner corner = window.corner(pixel);
        return [=](int64_t f) {
            float total = 0;
            for (int64_t kh = 0; kh < kernel; ++kh)
                for (int64_t kw = 0; kw < kernel; ++kw) {
                    const int64_t from = window.source(corner, kh, kw);
                    if (from >= 0) total += z[from * columns + (kh * kernel + kw) * few + f];
                }
            y[pixel * few + f] = epilogue(Pack<float, 1>{total}, f, pixel * few + f).values[0];
        };
    });
    return true;
}

}  // namespace

template <class Element>
bool tensor_forward(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& shape) {
    const ConvShape s = convolved(shape);
    if (!mma::applies<Element>(s.y_size() / s.out, s.out, s.in, s.kernel * s.kernel)) {
        if (shape.relu || shape.pool) return false;
        const Window window = forward_window(s);
        return many_to_few<Element>(y, x, w, epilogue, s, window, false) ||
               few_to_many<Element>(y, x, w, epilogue, s, window, true);
    }
    const Halo halo = forward_halo(s);
    mma::Sum sum{s.out, s.in, y, epilogue};
    sum.add(s.y_size() / s.out, forward_taps(s, halo), phase_pixels(halo, forward_targets(s), 0));
    mma::launch_sum(with_halo<Element>(source_slot, x, halo, s.in, {shape.relu, shape.pool}),
                    packed<false, Element>(w, s, sum.taps), sum);
    return true;
}

template <class Element>
bool tensor_backward_input(float* dx, const float* dy, const float* w, const Epilogue& epilogue,
                           const ConvShape& shape) {
    const ConvShape s = convolved(shape);
    const int64_t phases = s.stride * s.stride, pixels = s.x_size() / s.in;
    const bool taps_everywhere = s.kernel >= s.stride;  // each phase meets some
    if (!taps_everywhere || phases > mma::max_phases ||
        !mma::applies<Element>(pixels, s.in, s.out, s.kernel * s.kernel)) {
        if (shape.pool || s.stride != 1) return false;
        const Window window = backward_window(s);
        return many_to_few<Element>(dx, dy, w, epilogue, s, window, true) ||
               few_to_many<Element>(dx, dy, w, epilogue, s, window, false);
    }
    const Halo halo = backward_halo(s);
    float* result = shape.pool ? workspace<float>(target_slot, s.x_size()) : dx;
    mma::Sum sum{s.in, s.out, result, shape.pool ? Epilogue{} : epilogue};
    for (int64_t phase = 0; phase < phases; ++phase) {
        const Pixels of = phase_pixels(halo, backward_targets(s), phase);
        sum.add(s.batch * of.in_image(), backward_taps(s, halo, phase), of);
    }
    mma::launch_sum(with_halo<Element>(source_slot, dy, halo, s.out), packed<true, Element>(w, s, sum.taps), sum);
    const Halo bare{s.batch, 0, {s.height, 1, 0, s.height}, {s.width, 1, 0, s.width}};
    if (shape.pool) gather(dx, result, epilogue, true, bare, {s.height, s.width, 1, 0, 0}, s.in);
    return true;
}

template bool tensor_forward<Bf16>(float*, const float*, const float*, const Epilogue&, const ConvShape&);
template bool tensor_forward<Tf32>(float*, const float*, const float*, const Epilogue&, const ConvShape&);
template bool tensor_backward_input<Bf16>(float*, const float*, const float*, const Epilogue&, const ConvShape&);
template bool tensor_backward_input<Tf32>(float*, const float*, const float*, const Epilogue&, const ConvShape&);

}  // namespace dualmcmc::DEVICE_NAMESPACE

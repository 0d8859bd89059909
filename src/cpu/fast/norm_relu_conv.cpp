// Batch norm, ReLU, upsampling and convolution as one kernel, and its gradients. A few images at a time go through all
// of it, so that the intermediates stay in the cache.
#include "cpu/fast/routes.h"

#include <algorithm>

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

// A batch in groups of images whose largest intermediate has at most 2^17 elements, which fits the L2 cache. If there
// are several, their number is a multiple of 4, so that 2 or 4 threads have equal shares.
struct ImageGroups {
    int64_t batch, count;
    ImageGroups(int64_t batch_, int64_t elements_per_image)
        : batch(batch_), count((batch * elements_per_image + max_elements - 1) / max_elements) {
        if (count > 1) count = std::min(batch, (count + 3) / 4 * 4);
    }
    static constexpr int64_t max_elements = int64_t(1) << 17;

    // Calls body(group, first image, images), in a ConstantWeights scope.
    template <class Body>
    void run(Body body) const {
        const uint64_t outer = ConstantWeights::current(), id = outer ? outer : ConstantWeights::next();
        parallel_dynamic(count, [&](int64_t group) {
            const ConstantWeights constant(id);
            const int64_t first = batch * group / count;
            body(group, first, batch * (group + 1) / count - first);
        });
    }
};

// Sizes, and the convolution's shape and input for some images of the batch.
struct Geometry {
    const NormReluConv& in;
    int64_t channels, height, width;  // of x

    explicit Geometry(const NormReluConv& in_)
        : in(in_), channels(in.conv.in), height(in.conv.height / (in.upsample ? 2 : 1)),
          width(in.conv.width / (in.upsample ? 2 : 1)) {}
    int64_t pixels() const { return height * width; }
    int64_t x_offset(int64_t image) const { return image * pixels() * channels; }
    int64_t y_image() const { return in.conv.y_size() / in.conv.batch; }
    int64_t residual_image() const { return in.upsample_residual ? y_image() / 4 : y_image(); }
    ImageGroups groups() const { return {in.conv.batch, std::max(in.conv.x_size(), in.conv.y_size()) / in.conv.batch}; }
    ConvShape conv(int64_t images) const {
        ConvShape s = in.conv;
        s.batch = images;
        return s;
    }
    // The convolution's input, in this thread's workspace.
    const float* input(int64_t first, int64_t images) const {
        float* activated = workspace<7>(images * pixels() * channels);
        batch_norm(activated, in.x + x_offset(first), in.mean, in.rstd, in.weight, in.bias, 0, images * pixels(),
                   channels);
        if (!in.upsample) return activated;
        float* upsampled = workspace<8>(conv(images).x_size());
        upsample2(upsampled, activated, images, height, width, channels);
        return upsampled;
    }
};

}  // namespace

template <Arithmetic arithmetic>
void norm_relu_conv2d(float* y, const NormReluConv& in, const float* w, const float* bias, const float* residual) {
    const Geometry g(in);
    g.groups().run([&](int64_t, int64_t first, int64_t images) {
        const ConvShape s = g.conv(images);
        const float* added = residual ? residual + first * g.residual_image() : nullptr;
        if (added && in.upsample_residual) {
            float* upsampled = workspace<9>(s.y_size());
            upsample2(upsampled, added, images, s.out_height() / 2, s.out_width() / 2, s.out);
            added = upsampled;
        }
        conv2d<arithmetic>(y + first * g.y_image(), g.input(first, images), w, bias, added, s);
    });
}

template <Arithmetic arithmetic>
void norm_relu_conv2d_backward(float* du, float* dweight, float* dbias, float* dresidual, const NormReluConv& in,
                               const float* w, const float* dy) {
    const Geometry g(in);
    const ImageGroups groups = g.groups();
    const int64_t channels = g.channels;
    float* sums = workspace<10>((groups.count + 1) * 2 * channels);  // per group: dweight, dbias; then the totals
    groups.run([&, sums](int64_t group, int64_t first, int64_t images) {
        const ConvShape s = g.conv(images);
        const float* upstream = dy + first * g.y_image();
        if (dresidual)
            upsample2_backward(dresidual + first * g.residual_image(), upstream, images, s.out_height() / 2,
                               s.out_width() / 2, s.out);
        float *target = du + g.x_offset(first), *upsampled = in.upsample ? workspace<8>(s.x_size()) : target;
        conv2d_backward_input<arithmetic>(upsampled, upstream, w, nullptr, nullptr, s);
        if (in.upsample) upsample2_backward(target, upsampled, images, g.height, g.width, channels);
        float* own = sums + group * 2 * channels;
        batch_norm_backward_reduce(own, own + channels, in.mean, in.rstd, in.x + g.x_offset(first), in.weight, in.bias,
                                   target, 0, images * g.pixels(), channels);
    });
    float* total = sums + groups.count * 2 * channels;
    column_sum(total, sums, groups.count, 2 * channels);
    copy(dweight, total, channels);
    copy(dbias, total + channels, channels);
}

template <Arithmetic arithmetic>
void norm_relu_conv2d_backward_weight(float* dw, const NormReluConv& in, const float* dy) {
    conv2d_backward_weight<arithmetic>(dw, Geometry(in).input(0, in.conv.batch), dy, in.conv);
}

#define INSTANTIATE(arithmetic)                                                                                        \
    template void norm_relu_conv2d<arithmetic>(float*, const NormReluConv&, const float*, const float*, const float*); \
    template void norm_relu_conv2d_backward<arithmetic>(float*, float*, float*, float*, const NormReluConv&,           \
                                                        const float*, const float*);                                   \
    template void norm_relu_conv2d_backward_weight<arithmetic>(float*, const NormReluConv&, const float*);
INSTANTIATE(Arithmetic::exact)
INSTANTIATE(Arithmetic::fp32)
#ifdef __AVX512F__
INSTANTIATE(Arithmetic::amx)
#endif

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast

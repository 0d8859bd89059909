// A table of kernels that calls another's.
#include "experiments/relu_signs.h"

#include <map>
#include <optional>

#include "engine/graphed_function.h"

namespace dualmcmc {

namespace {

const Backend* inner = nullptr;
ReluSigns::Record* record = nullptr;
std::optional<DisableGraphs> eager;

void note(const real* x, int64_t n) {
    std::vector<real> values(static_cast<size_t>(n));
    inner->download(values.data(), x, n);
    std::vector<bool>& signs = record->emplace_back(values.size());
    for (size_t i = 0; i < values.size(); ++i) signs[i] = values[i] > 0;
}

void leaky_relu(real* y, const real* x, real slope, int64_t n) {
    inner->leaky_relu(y, x, slope, n);
    note(y, n);
}

void batch_norm(real* y, const real* x, const real* mean, const real* rstd, const real* weight, const real* bias,
                real slope, int64_t rows, int64_t columns) {
    inner->batch_norm(y, x, mean, rstd, weight, bias, slope, rows, columns);
    if (slope != 1) note(y, rows * columns);
}

void conv2d(real* y, const real* x, const real* w, const real* bias, const real* residual, ConvShape shape) {
    if (shape.relu) note(x, shape.x_size());
    inner->conv2d(y, x, w, bias, residual, shape);
}

void norm_relu_conv2d(real* y, const NormReluConv& in, const real* w, const real* bias, const real* residual) {
    const int64_t scale = in.upsample ? 4 : 1, n = in.conv.x_size() / scale;
    const Tensor u({n});
    inner->batch_norm(u.data(), in.x, in.mean, in.rstd, in.weight, in.bias, 0, n / in.conv.in, in.conv.in);
    note(u.data(), n);
    inner->norm_relu_conv2d(y, in, w, bias, residual);
}

// A table for each device, since the pool keeps freed memory by table (machine/pool.h). Never destroyed, as the pool.
Backend& table_of(const Backend& device) {
    static auto& tables = *new std::map<const Backend*, Backend>;
    return tables[&device];
}

}  // namespace

ReluSigns::ReluSigns(Record& record_) {
    inner = &backend();
    record = &record_;
    Backend& table = table_of(*inner);
    table = *inner;
    table.callable_from_many_threads = false;
    table.exact = nullptr;
    table.leaky_relu = leaky_relu;
    table.batch_norm = batch_norm;
    table.conv2d = conv2d;
    if (table.norm_relu_conv2d) table.norm_relu_conv2d = norm_relu_conv2d;
    eager.emplace();
    set_backend(table);
}

ReluSigns::~ReluSigns() {
    set_backend(*inner);
    eager.reset();
}

}  // namespace dualmcmc

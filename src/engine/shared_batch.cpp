// Shares of a batch, and sums of tensors through the host.
#include "engine/shared_batch.h"

namespace dualmcmc {

namespace {
const BatchShare* shared = nullptr;
}  // namespace

BatchShare batch_share(int64_t whole, int rank) {
    const int64_t first = whole * rank / ranks().count, end = whole * (rank + 1) / ranks().count;
    return {first, end - first, whole};
}

SharedBatch::SharedBatch(int64_t whole) : own_(batch_share(whole, ranks().rank)) {
    if (whole < ranks().count)
        fail("--batch ", whole, ": each of the ", ranks().count, " processes needs an image; start fewer of them");
    shared = &own_;
}
SharedBatch::~SharedBatch() { shared = nullptr; }

bool batch_is_shared() { return shared && ranks().count > 1; }

int64_t whole_batch(int64_t own) {
    if (!batch_is_shared()) return own;
    CHECK_EQ(own, shared->count);
    return shared->whole;
}

std::vector<Tensor> summed_over_ranks(const std::vector<Tensor>& own, double factor) {
    if (ranks().count == 1) return own;
    std::vector<real> values;
    for (const Tensor& tensor : own) {
        const std::vector<real> more = tensor.to_host();
        values.insert(values.end(), more.begin(), more.end());
    }
    sum_over_ranks(values, factor);
    std::vector<Tensor> sums;
    const real* next = values.data();
    for (const Tensor& tensor : own) {
        sums.push_back(Tensor::from_host(tensor.shape(), next));
        next += tensor.size();
    }
    return sums;
}

}  // namespace dualmcmc

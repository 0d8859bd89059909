// Shares of a batch, and batch norm's statistics of the whole.
#include "ranks/shared_batch.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "ranks/pooled_statistics.h"

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

std::vector<real> whole_batch_statistics(const std::vector<real>& own, int64_t whole, int64_t pixels, real epsilon) {
    PooledStatistics pooled;
    const std::vector<std::vector<real>> all = of_all_ranks(own);
    for (size_t rank = 0; rank < all.size(); ++rank) {
        const auto middle = all[rank].begin() + int64_t(own.size() / 2);
        const int64_t images = batch_share(whole, int(rank)).count;
        pooled.add({all[rank].begin(), middle}, {middle, all[rank].end()}, double(images * pixels));
    }
    std::vector<real> out;
    for (const double mean : pooled.mean) out.push_back(real(mean));
    for (const double squares : pooled.squares)
        out.push_back(real(1 / std::sqrt(squares / pooled.count + double(epsilon))));
    for (const double squares : pooled.squares) out.push_back(real(squares / std::max(pooled.count - 1, 1.0)));
    return out;
}

}  // namespace dualmcmc

// The processes of a run, called ranks, and what they tell each other. `mpirun -np N` starts N of them; without it, or
// in a build without MPI, there is one, and everything here does nothing. How they share a batch: shared_batch.h.
//
// All ranks must call the functions under "exchanges" and "shared work" in the same order.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "real.h"

namespace dualmcmc {

// ---- the processes ------------------------------------------------------------------------------

struct Ranks {
    int rank = 0, count = 1;                  // this process, of all
    int rank_on_node = 0, count_on_node = 1;  // of those on the same machine
};
const Ranks& ranks();
// The processes of the run, also while this one works alone.
int process_count();
// Whether this process prints, and writes the files.
inline bool first_rank() { return ranks().rank == 0; }

// Called by main. Joins the other ranks if mpirun has started this process; only the first one's stdout is kept. Fails
// if they cannot be joined.
void start_ranks();
// Fails unless `build`, which tells builds of the program apart, is the same on all ranks: others may send other
// messages, and all would wait.
void require_same_build(const std::string& build);
// Waits for the others.
void end_ranks();
// Prints the error's line and ends all ranks. Of ranks that fail together, only the lowest prints. Returns where there
// is but one.
void end_all_ranks(const std::string& error);

// While one lives, this rank works alone, as if there were no others.
class WorkAlone {
public:
    WorkAlone();
    ~WorkAlone();
    WorkAlone(const WorkAlone&) = delete;
    WorkAlone& operator=(const WorkAlone&) = delete;

private:
    Ranks before_;
};

// While one lives, a rank on which the others wait in an exchange is named on stderr after so many seconds: it may be
// stopped, stuck in its file system, or merely slow. No result changes, and nobody stops waiting. Only the lowest of
// those that wait prints; the next line comes after ten times as long a wait, and so on. At most one lives.
class RankWatch {
public:
    explicit RankWatch(double seconds = 60);
    ~RankWatch();
    RankWatch(const RankWatch&) = delete;
    RankWatch& operator=(const RankWatch&) = delete;
    // What the ranks do now: the line begins with it.
    void at(const std::string& what);
};

// ---- exchanges ----------------------------------------------------------------------------------

// In place: factor Σ over ranks, in the order of ranks and in double precision. The same bits on every rank and in
// every run. With one rank nothing happens; `factor` is not applied.
void sum_over_ranks(std::vector<real>& values, double factor = 1);

// So few are sent to all ranks as a whole, and through the host even from a GPU; more, in parts. All ranks must agree.
constexpr size_t few_values = 8192;

// Whether MPI may be given addresses in a GPU's memory. A CUDA-aware Open MPI or MPICH says so; DUALMCMC_GPU_MESSAGES,
// 0 or 1, overrides it.
bool gpu_messages();

// The same sum in memory that the host may not read: that of a GPU, where gpu_messages(). `room` is there, too, for
// n + count values. Each rank calls add(y, x, m) for its part of the values: y (m) is to become the sum of the rows of
// x (count, m) in their order, before add returns.
using AddRows = std::function<void(real* y, const real* x, size_t m)>;
void sum_in_parts(real* values, real* room, size_t n, const AddRows& add);

// The values of all ranks, as many from each.
std::vector<std::vector<real>> of_all_ranks(const std::vector<real>& own);

// The values of all ranks in their order, any number from each.
std::vector<real> joined_of_all_ranks(const std::vector<real>& own);

// Whether it is true on any rank.
bool on_any_rank(bool own);

// The first rank's text, number.
std::string of_first_rank(const std::string& own);
int64_t of_first_rank(int64_t own);

// ---- shared work --------------------------------------------------------------------------------

// Calls work(k), k = begin … end - 1, on the ranks in turn, and take(k, result) on the first rank, in order. A result
// is a string of bytes. Between turns it ends where stop() is true on any rank. Returns the first k that was not done.
int64_t share_out(
    int64_t begin, int64_t end, const std::function<std::string(int64_t)>& work,
    const std::function<void(int64_t, const std::string&)>& take,
    const std::function<bool()>& stop = [] { return false; });

// Values as bytes, for share_out.
template <class T>
std::string to_bytes(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}
template <class T>
std::vector<T> from_bytes(const std::string& bytes) {
    const T* const values = reinterpret_cast<const T*>(bytes.data());
    return {values, values + bytes.size() / sizeof(T)};
}

// ---- traffic ------------------------------------------------------------------------------------

// What this rank has sent so far, and the time it has spent in messages, which includes waiting for slower ranks.
struct Traffic {
    int64_t messages = 0, bytes = 0;
    double seconds = 0;
};
const Traffic& traffic();

}  // namespace dualmcmc

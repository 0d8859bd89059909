// Ranks over MPI. No other file knows it; WITH_MPI is set by the Makefile where an MPI compiler is found.
#include "ranks/ranks.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <list>
#ifdef WITH_MPI
#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>  // Open MPI's extensions; MPICH has them in mpi.h
#endif
#endif

#include "check.h"

namespace dualmcmc {

namespace {

Ranks current;
int processes = 1;
Traffic sent;

// Of the living RankWatch.
struct Watched {
    double patience = 0;  // seconds of waiting before the next line; 0: there is none
    std::string what;
} watched;

// What the launcher's variables say before MPI is started, which sets some of them itself.
int launched_variable(std::initializer_list<const char*> names, int otherwise) {
    for (const char* name : names)
        if (const char* value = std::getenv(name)) return std::atoi(value);
    return otherwise;
}
// This process; -1: there is no launcher.
const int launched_rank = launched_variable({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "PALS_RANKID"}, -1);
// srun's tasks, whether or not its --mpi lets them find each other, and which of them this is. A shell is one task.
const int slurm_tasks = launched_variable({"SLURM_STEP_NUM_TASKS"}, 1),
          slurm_task = launched_variable({"SLURM_PROCID"}, 0);
// The processes; 0: there is no launcher.
const int launched_count =
    launched_variable({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, slurm_tasks > 1 ? slurm_tasks : launched_rank + 1);

}  // namespace

const Ranks& ranks() { return current; }
int process_count() { return processes; }
const Traffic& traffic() { return sent; }

WorkAlone::WorkAlone() : before_(current) { current = {}; }
WorkAlone::~WorkAlone() { current = before_; }

RankWatch::RankWatch(double seconds) { watched = {seconds, ""}; }
RankWatch::~RankWatch() { watched = {}; }
void RankWatch::at(const std::string& what) { watched.what = what; }

// ---- messages: all that MPI does ----------------------------------------------------------------

namespace {

#ifdef WITH_MPI

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point began) { return std::chrono::duration<double>(Clock::now() - began).count(); }

// Counts a message of `bytes` bytes that this rank sends, and the time until the scope ends.
class Message {
public:
    explicit Message(size_t bytes) {
        sent.messages += 1;
        sent.bytes += int64_t(bytes);
    }
    ~Message() { sent.seconds += seconds_since(began_); }

private:
    Clock::time_point began_ = Clock::now();
};

// Of each rank, "rank 1 on node7".
std::vector<std::string> rank_names;

// What a rank that has waited long in a message sends to all: the message's number, the same on all ranks.
constexpr int waiting_tag = 2;

void say_waiting() {
    static std::list<int64_t> words;  // stay until MPI has sent them
    words.push_back(sent.messages);
    for (int other = 0; other < current.count; ++other) {
        if (other == current.rank) continue;
        MPI_Request request;
        MPI_Isend(&words.back(), 1, MPI_INT64_T, other, waiting_tag, MPI_COMM_WORLD, &request);
        MPI_Request_free(&request);
    }
}

// Notes which ranks have said that they wait in this message. Words of an earlier one come from waits that have ended.
void hear_waiting(std::vector<bool>& waiting) {
    for (int heard = 0;;) {
        MPI_Status status;
        MPI_Iprobe(MPI_ANY_SOURCE, waiting_tag, MPI_COMM_WORLD, &heard, &status);
        if (!heard) return;
        int64_t number = 0;
        MPI_Recv(&number, 1, MPI_INT64_T, status.MPI_SOURCE, waiting_tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (number == sent.messages) waiting[size_t(status.MPI_SOURCE)] = true;
    }
}

void name_missing(const std::vector<bool>& waiting, double seconds) {
    std::string missing;
    for (size_t rank = 0; rank < waiting.size(); ++rank)
        if (!waiting[rank]) missing += (missing.empty() ? "" : ", ") + rank_names[rank];
    if (!missing.empty())
        std::cerr << text("dualmcmc: ", watched.what, ": no answer for ", std::lround(seconds), " s from ", missing,
                          "; the others wait\n");
}

// Until the request, which all ranks make, is done. Ranks tell each other that they wait when one has waited for half
// of its patience: at its end the lowest of them knows who is missing.
void wait(MPI_Request request) {
    Clock::time_point last = Clock::now();
    double seconds = 0;  // without those in which this rank was stopped itself
    std::vector<bool> waiting(size_t(current.count));
    for (int done = 0;;) {
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (done) return;
        if (seconds < 0.1) sched_yield();  // processes may share a core
        else usleep(100);
        seconds += std::min(seconds_since(last), 0.1);
        last = Clock::now();
        if (watched.patience == 0) continue;
        hear_waiting(waiting);
        const bool asked = std::find(waiting.begin(), waiting.end(), true) != waiting.end();
        if (!waiting[size_t(current.rank)] && (asked || seconds >= watched.patience / 2)) {
            waiting[size_t(current.rank)] = true;
            say_waiting();
        }
        if (seconds < watched.patience) continue;
        const auto lowest = std::find(waiting.begin(), waiting.end(), true) - waiting.begin();
        if (lowest == current.rank) name_missing(waiting, seconds);
        watched.patience *= 10;
    }
}

const MPI_Datatype number = sizeof(real) == 4 ? MPI_FLOAT : MPI_DOUBLE;

int as_count(size_t n) {
    CHECK_LE(n, size_t(1) << 30);
    return int(n);
}

// Where each rank's part of n values begins, and their end.
std::vector<int> parts_of(size_t n) {
    std::vector<int> begins;
    for (int rank = 0; rank <= current.count; ++rank)
        begins.push_back(as_count(n * size_t(rank) / size_t(current.count)));
    return begins;
}

std::vector<int> differences(const std::vector<int>& begins) {
    std::vector<int> sizes;
    for (size_t i = 0; i + 1 < begins.size(); ++i) sizes.push_back(begins[i + 1] - begins[i]);
    return sizes;
}

// The sums of the columns of `from` (ranks, n), from the first rank to the last.
void sum_in_order(real* sums, const real* from, size_t n, double factor) {
#pragma omp parallel for schedule(static) if (n > 100000)
    for (size_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int rank = 0; rank < current.count; ++rank) sum += double(from[size_t(rank) * n + i]);
        sums[i] = real(factor * sum);
    }
}

// As many values from each rank, one after the other.
std::vector<real> gathered(const std::vector<real>& own) {
    const Message message(size_t(current.count - 1) * own.size() * sizeof(real));
    std::vector<real> all(size_t(current.count) * own.size());
    MPI_Request request;
    MPI_Iallgather(own.data(), as_count(own.size()), number, all.data(), as_count(own.size()), number, MPI_COMM_WORLD,
                   &request);
    wait(request);
    return all;
}

// Each rank gets a part of all values, sums it, and sends it to all: 2 (N - 1) / N of the bytes, the least there is.
void sum(real* values, real* room, size_t n, const AddRows& add) {
    const size_t count = size_t(current.count), rank = size_t(current.rank);
    const std::vector<int> begins = parts_of(n), sizes = differences(begins);
    const size_t own = size_t(sizes[rank]);
    const Message message((n - own + (count - 1) * own) * sizeof(real));
    std::vector<int> own_sizes(count, int(own)), own_begins;
    for (size_t other = 0; other < count; ++other) own_begins.push_back(as_count(other * own));
    MPI_Request all_are_here;
    MPI_Ibarrier(MPI_COMM_WORLD, &all_are_here);
    wait(all_are_here);
    MPI_Alltoallv(values, sizes.data(), begins.data(), number, room, own_sizes.data(), own_begins.data(), number,
                  MPI_COMM_WORLD);
    add(values + begins[rank], room, own);
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values, sizes.data(), begins.data(), number, MPI_COMM_WORLD);
}

// Few values go to all ranks, and each sums.
void sum(std::vector<real>& values, double factor) {
    const size_t n = values.size();
    if (n <= few_values) return sum_in_order(values.data(), gathered(values).data(), n, factor);
    std::vector<real> room(n + size_t(current.count));
    sum(values.data(), room.data(), n, [=](real* y, const real* x, size_t m) { sum_in_order(y, x, m, factor); });
}

bool mpi_is_cuda_aware() {
#if defined(MPIX_CUDA_AWARE_SUPPORT) || (defined(MPICH_NUMVERSION) && MPICH_NUMVERSION >= 40000000)
    return MPIX_Query_cuda_support() == 1;
#else
    return false;
#endif
}

// The bytes of all ranks, one after the other, on every rank or, with `to_first`, on the first.
std::vector<std::string> exchange(const std::string& own, bool to_first) {
    if (current.count == 1) return {own};
    const Message message(own.size() * size_t(to_first ? !first_rank() : current.count - 1));
    const int size = as_count(own.size());
    std::vector<int> sizes(size_t(current.count)), begins{0};
    MPI_Request request;
    MPI_Iallgather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, MPI_COMM_WORLD, &request);
    wait(request);
    for (const int bytes : sizes) begins.push_back(as_count(size_t(begins.back()) + size_t(bytes)));
    std::string all(to_first && !first_rank() ? 0 : size_t(begins.back()), '\0');
    if (to_first)
        MPI_Gatherv(own.data(), size, MPI_BYTE, all.data(), sizes.data(), begins.data(), MPI_BYTE, 0, MPI_COMM_WORLD);
    else MPI_Allgatherv(own.data(), size, MPI_BYTE, all.data(), sizes.data(), begins.data(), MPI_BYTE, MPI_COMM_WORLD);
    std::vector<std::string> out;
    for (size_t rank = 0; rank < sizes.size() && !all.empty(); ++rank)
        out.push_back(all.substr(size_t(begins[rank]), size_t(sizes[rank])));
    out.resize(size_t(current.count));
    return out;
}

std::string node_name() {
    char name[MPI_MAX_PROCESSOR_NAME];
    int length = 0;
    MPI_Get_processor_name(name, &length);
    return {name, size_t(length)};
}

#else

std::vector<real> gathered(const std::vector<real>& own) { return own; }
void sum(real*, real*, size_t, const AddRows&) {}
void sum(std::vector<real>&, double) {}
bool mpi_is_cuda_aware() { return false; }
std::vector<std::string> exchange(const std::string& own, bool) { return {own}; }

#endif

}  // namespace

// ---- the processes ------------------------------------------------------------------------------

namespace {
// Where the launcher's processes have not found each other.
void leave_speaking_to_the_first() {
    if (launched_rank > 0 || (launched_rank < 0 && slurm_tasks > 1 && slurm_task > 0)) std::_Exit(1);
}
}  // namespace

#ifdef WITH_MPI

void start_ranks() {
    if (launched_count == 0) return;
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &current.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &current.count);
    processes = current.count;
    if (launched_count > 1 && current.count == 1)
        fail(launched_count,
             " processes were started, but they do not find each other: the launcher's MPI is not the one that this "
             "program was built with (under Slurm, try srun --mpi=pmix for Open MPI, --mpi=pmi2 for MPICH)");
    MPI_Comm node;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, current.rank, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &current.rank_on_node);
    MPI_Comm_size(node, &current.count_on_node);
    MPI_Comm_free(&node);
    rank_names = exchange(text("rank ", current.rank, " on ", node_name()), false);
    if (!first_rank() && !std::freopen("/dev/null", "w", stdout)) fail("cannot open /dev/null");
}

void end_ranks() {
    int started = 0;
    MPI_Initialized(&started);
    if (!started) return;
    std::vector<bool> nobody(size_t(current.count));
    hear_waiting(nobody);  // MPI wants every message received
    MPI_Finalize();
}

void end_all_ranks(const std::string& error) {
    int started = 0, count = 1, rank = 0;
    MPI_Initialized(&started);
    if (!started) return;
    MPI_Comm_size(MPI_COMM_WORLD, &count);
    if (count == 1) return leave_speaking_to_the_first();
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    // Each rank that fails tells those above it, and waits two seconds for word from those below.
    constexpr int tag = 1;
    char word = 0;
    for (int other = rank + 1; other < count; ++other) {
        MPI_Request request;
        MPI_Isend(&word, 1, MPI_CHAR, other, tag, MPI_COMM_WORLD, &request);
    }
    int heard = 0;
    for (int tenths = 0; rank > 0 && !heard && tenths < 20; ++tenths) {
        MPI_Iprobe(MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &heard, MPI_STATUS_IGNORE);
        if (!heard) usleep(100'000);
    }
    while (heard) pause();  // the lower rank ends this one
    if (rank == 0) std::cerr << "dualmcmc: " << error << std::endl;
    else std::cerr << "dualmcmc: rank " << rank << " on " << node_name() << ": " << error << std::endl;
    MPI_Abort(MPI_COMM_WORLD, 1);
}

#else

void start_ranks() {
    if (launched_count > 1)
        fail(launched_count,
             " processes were started, but this build has no MPI: install its compiler (Debian's libopenmpi-dev), and "
             "run make again");
}
void end_ranks() {}
void end_all_ranks(const std::string&) { leave_speaking_to_the_first(); }

#endif

void require_same_build(const std::string& build) {
    const std::vector<std::string> builds = exchange(build, false);
    for (size_t rank = 1; rank < builds.size(); ++rank)
        if (builds[rank] != builds[0])
            fail("the processes are of different builds; start the same one everywhere: rank 0 is ", builds[0],
                 "; rank ", rank, " is ", builds[rank]);
}

// ---- exchanges ----------------------------------------------------------------------------------

void sum_over_ranks(std::vector<real>& values, double factor) {
    if (current.count > 1) sum(values, factor);
}

bool gpu_messages() {
    const char* const chosen = std::getenv("DUALMCMC_GPU_MESSAGES");
    const std::string answer = chosen ? chosen : mpi_is_cuda_aware() ? "1" : "0";
    if (answer != "0" && answer != "1") fail("DUALMCMC_GPU_MESSAGES=", answer, ": give 0 or 1, or leave it unset");
    return answer == "1";
}

void sum_in_parts(real* values, real* room, size_t n, const AddRows& add) {
    if (current.count > 1) sum(values, room, n, add);
}

std::vector<std::vector<real>> of_all_ranks(const std::vector<real>& own) {
    if (current.count == 1) return {own};
    const std::vector<real> all = gathered(own);
    std::vector<std::vector<real>> by_rank;
    for (size_t first = 0; first < all.size(); first += own.size())
        by_rank.emplace_back(all.begin() + int64_t(first), all.begin() + int64_t(first + own.size()));
    return by_rank;
}

std::vector<real> joined_of_all_ranks(const std::vector<real>& own) {
    std::string joined;
    for (const std::string& bytes : exchange(to_bytes(own), false)) joined += bytes;
    return from_bytes<real>(joined);
}

bool on_any_rank(bool own) {
    const auto all = exchange(own ? "1" : "0", false);
    return std::find(all.begin(), all.end(), "1") != all.end();
}

std::string of_first_rank(const std::string& own) { return exchange(first_rank() ? own : "", false)[0]; }
int64_t of_first_rank(int64_t own) { return std::stoll(of_first_rank(std::to_string(own))); }

// ---- shared work --------------------------------------------------------------------------------

int64_t share_out(int64_t begin, int64_t end, const std::function<std::string(int64_t)>& work,
                  const std::function<void(int64_t, const std::string&)>& take, const std::function<bool()>& stop) {
    for (int64_t turn = begin; turn < end; turn += current.count) {
        if (on_any_rank(stop())) return turn;
        const int64_t own = turn + current.rank;
        const std::vector<std::string> results = exchange(own < end ? work(own) : "", true);
        for (int64_t k = turn; first_rank() && k < std::min(end, turn + current.count); ++k)
            take(k, results[size_t(k - turn)]);
    }
    return end;
}

}  // namespace dualmcmc

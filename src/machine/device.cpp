// The choice of the device.
#include "machine/device.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "check.h"
#include "machine/instruction_sets.h"
#include "machine/threads.h"
#include "parallel.h"
#include "ranks/ranks.h"

namespace dualmcmc {

namespace {
const Backend* current_backend = nullptr;
}

const Backend& backend() {
    if (!current_backend) current_backend = &best_cpu_backend();
    return *current_backend;
}

void set_backend(const Backend& table) { current_backend = &table; }

ExactConvolutions::ExactConvolutions() : before_(backend()) {
    if (before_.exact) set_backend(*before_.exact);
}
ExactConvolutions::~ExactConvolutions() { set_backend(before_); }

namespace {
// Selects the GPU's table of this precision (an index) and describes it. Throws one line that says why it cannot.
std::string start_gpu(size_t precision) {
    const std::vector<const Backend*> tables = cuda_backends();
    if (tables.empty()) fail("this build holds no code for GPUs");
    const std::string device = tables[precision]->start(ranks().rank_on_node);
    set_backend(*tables[precision]);
    return text(backend().name, ": ", device);
}

// Ranks on one node share its cores, unless mpirun has already bound each to its own, or the user has said otherwise.
void share_cores() {
    if (ranks().count_on_node == 1 || std::getenv("OMP_NUM_THREADS")) return;
    const int64_t cores = sysconf(_SC_NPROCESSORS_ONLN), all = std::min(cores, cgroup_cpus().value_or(cores));
    omp_set_num_threads(std::clamp(int(all) / ranks().count_on_node, 1, omp_get_max_threads()));
}

std::string choose_device(const std::string& name, int64_t threads, const std::string& precision) {
    if (threads < 0 || threads > 1024)
        fail("--threads ", threads, ": give the number of CPU threads, at most 1024, or 0 for all");
    if (threads > 0) omp_set_num_threads(int(threads));
    else share_cores();
    const std::string cpus = text(", ", omp_get_max_threads(), omp_get_max_threads() == 1 ? " thread" : " threads");
    const std::vector<std::string> precisions{"fp32", "tf32", "bf16"};  // as cuda_backends() has them
    const size_t chosen = size_t(
        std::find(precisions.begin(), precisions.end(), precision == "auto" ? "tf32" : precision) - precisions.begin());
    if (chosen == precisions.size()) fail("--precision ", precision, ": unknown; give auto, fp32, tf32 or bf16");

    std::string reason;  // why no GPU is used
    if (name == "cuda" || name == "auto") {
        try {
            return start_gpu(chosen);
        } catch (const std::runtime_error& error) {
            if (name == "cuda") fail("--device cuda: ", error.what(), " (--device cpu needs none)");
            reason = text("; ", error.what());
        }
    }
    if (precision == "tf32" || precision == "bf16")
        fail("--precision ", precision, ": the CPU computes in fp32; leave it out", reason);
    if (name == "auto" || name == "cpu") {
        set_backend(best_cpu_backend());
        return text(backend().name, cpus, reason);
    }
    for (const InstructionSet& set : instruction_sets()) {
        if (name != set.device) continue;
        if (!set.supported) fail("--device ", name, ": this processor lacks these instructions; use --device cpu");
        set_backend(*set.backend);
        return text(backend().name, cpus);
    }
    std::string known = "auto, cpu, cuda";
    for (const InstructionSet& set : instruction_sets())
        known += text(&set == &instruction_sets().back() ? " or " : ", ", set.device);
    fail("--device ", name, ": unknown; give ", known);
}

}  // namespace

std::string select_device(const std::string& name, int64_t threads, const std::string& precision) {
    const std::string device = choose_device(name, threads, precision);
    if (ranks().count == 1) return device;
    // Other kernels round differently, and the ranks' parameters would drift apart.
    if (const std::string first = of_first_rank(backend().name); first != backend().name)
        fail("--device ", name, ": here it is ", backend().name, ", on rank 0 ", first, "; choose one that all have");
    const bool direct = gpu_messages() && !backend().callable_from_many_threads;
    return text(device, "; ", ranks().count, " processes",
                direct ? ", CUDA-aware MPI (DUALMCMC_GPU_MESSAGES=0: by the host)" : "");
}

void for_each_task(int64_t count, const std::function<void(int64_t)>& task) {
    if (backend().callable_from_many_threads) return parallel_dynamic(count, task);
    for (int64_t i = 0; i < count; ++i) task(i);
}

}  // namespace dualmcmc

// See threads.h. Formats: cgroups(7), the kernel's Documentation/admin-guide/cgroup-v2.rst and proc_pid_mountinfo(5).
#include "machine/threads.h"

#include <omp.h>
#include <sched.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

namespace dualmcmc {

namespace fs = std::filesystem;

namespace {

// A mounted hierarchy of control groups: its group `top` is seen at `folder`.
struct Hierarchy {
    bool version2;
    fs::path top, folder;
};

std::vector<std::string> split(const std::string& line, char separator) {
    std::vector<std::string> out;
    std::istringstream in(line);
    for (std::string word; std::getline(in, word, separator);) out.push_back(word);
    return out;
}

bool names_cpu(const std::string& controllers) {
    const std::vector<std::string> names = split(controllers, ',');
    return std::find(names.begin(), names.end(), "cpu") != names.end();
}

// Those that could limit the processor's time: the mounts that the kernel names, and the usual places.
std::vector<Hierarchy> hierarchies(const std::string& root) {
    std::vector<Hierarchy> out{{true, "/", "/sys/fs/cgroup"},
                               {true, "/", "/sys/fs/cgroup/unified"},
                               {false, "/", "/sys/fs/cgroup/cpu"},
                               {false, "/", "/sys/fs/cgroup/cpu,cpuacct"}};
    std::ifstream in(root + "/proc/self/mountinfo");
    // id, parent, device, top, folder, options, any number of fields, "-", type, source, options of the hierarchy
    for (std::string line; std::getline(in, line);) {
        const std::vector<std::string> words = split(line, ' ');
        const auto dash = std::find(words.begin(), words.end(), "-");
        if (dash - words.begin() < 6 || words.end() - dash < 4) continue;
        if (dash[1] == "cgroup2") out.push_back({true, words[3], words[4]});
        else if (dash[1] == "cgroup" && names_cpu(dash[3])) out.push_back({false, words[3], words[4]});
    }
    return out;
}

// quota / period, rounded up; empty for no limit, "max" and -1.
std::optional<int64_t> processors(std::istream&& quota_and_period) {
    int64_t quota = 0, period = 0;
    if (!(quota_and_period >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
    return quota / period + (quota % period != 0);
}

std::string contents(const fs::path& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
}

std::optional<int64_t> limit_of_group(const fs::path& folder, bool version2) {
    if (version2) return processors(std::istringstream(contents(folder / "cpu.max")));
    return processors(
        std::istringstream(contents(folder / "cpu.cfs_quota_us") + " " + contents(folder / "cpu.cfs_period_us")));
}

// Where this process' group lies below the hierarchy's folder. In a container that does not see the groups above its
// own, that is the folder itself.
fs::path below(const Hierarchy& hierarchy, const fs::path& group) {
    const fs::path path = group.lexically_relative(hierarchy.top);
    return path.empty() || *path.begin() == ".." ? fs::path() : path;
}

}  // namespace

std::optional<int64_t> cgroup_cpus(const std::string& root) {
    std::optional<int64_t> smallest;
    const std::vector<Hierarchy> all = hierarchies(root);
    std::ifstream in(root + "/proc/self/cgroup");
    // number of the hierarchy, its controllers (none in version 2), group
    for (std::string line; std::getline(in, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const bool version2 = controllers.empty();
        if (!version2 && !names_cpu(controllers)) continue;
        for (const Hierarchy& hierarchy : all) {
            if (hierarchy.version2 != version2) continue;
            fs::path group = below(hierarchy, line.substr(second + 1));
            for (bool more = true; more; group = group.parent_path()) {
                const auto limit = limit_of_group(fs::path(root + hierarchy.folder.string()) / group, version2);
                if (limit) smallest = std::min(limit, smallest ? smallest : limit);
                more = !group.empty();
            }
        }
    }
    return smallest;
}

void set_default_threads() {
    if (const char* const chosen = std::getenv("OMP_NUM_THREADS"); chosen && std::atoi(chosen) > 0) return;
    const int64_t granted = cgroup_cpus().value_or(INT_MAX);
    omp_set_num_threads(int(std::min<int64_t>(granted, omp_get_num_procs())));
}

void limit_spinning(char** argv) {
    for (const char* name : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"})
        if (std::getenv(name)) return;
    // Started by way of the dynamic loader, whose file cannot be started with these arguments.
    if (getauxval(AT_BASE) == 0) return;
    char program[PATH_MAX + 1] = {};
    if (readlink("/proc/self/exe", program, PATH_MAX) <= 0) return;
    setenv("GOMP_SPINCOUNT", "1000", 1);  // libgomp: g++
    setenv("KMP_BLOCKTIME", "0", 1);      // libomp: clang++
    // With OMP_PROC_BIND this thread is bound already. The places are all the processors that there were.
    cpu_set_t processors;
    CPU_ZERO(&processors);
    for (int place = 0; place < omp_get_num_places(); ++place) {
        std::vector<int> ids(size_t(omp_get_place_num_procs(place)));
        omp_get_place_proc_ids(place, ids.data());
        for (const int id : ids)
            if (id < CPU_SETSIZE) CPU_SET(id, &processors);
    }
    if (CPU_COUNT(&processors) > 0) sched_setaffinity(0, sizeof processors, &processors);
    execv(program, argv);
}

}  // namespace dualmcmc

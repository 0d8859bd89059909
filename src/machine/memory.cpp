// The machine, its control groups, the process.
#include "machine/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace dualmcmc {

namespace {

constexpr int64_t unlimited = std::numeric_limits<int64_t>::max();

// The number in such a file; `unlimited` if there is no file, or it says "max".
int64_t limit_in(const std::string& path) {
    std::ifstream in(path);
    int64_t bytes = 0;
    return in >> bytes && bytes > 0 ? bytes : unlimited;
}

// The smallest limit of this process's control group and those around it. In a container the group's own path may not
// exist below /sys/fs/cgroup; the container's limit is then at the top.
int64_t control_group_limit() {
    int64_t lowest = limit_in("/sys/fs/cgroup/memory/memory.limit_in_bytes");  // version 1
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
        if (!line.starts_with("0::")) continue;  // version 2
        std::string group = line.substr(3);
        while (true) {
            lowest = std::min(lowest, limit_in("/sys/fs/cgroup" + group + "/memory.max"));
            if (group.empty() || group.rfind('/') == std::string::npos) break;
            group.resize(group.rfind('/'));
        }
    }
    return lowest;
}

int64_t find_limit() {
    int64_t limit = unlimited;
    if (const int64_t pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE); pages > 0 && size > 0)
        limit = pages * size;
    rlimit process{};
    if (getrlimit(RLIMIT_AS, &process) == 0 && process.rlim_cur != RLIM_INFINITY)
        limit = int64_t(std::min(uint64_t(limit), uint64_t(process.rlim_cur)));
    return std::min(limit, control_group_limit());
}

}  // namespace

int64_t memory_limit() {
    static const int64_t limit = find_limit();
    return limit;
}

}  // namespace dualmcmc

// The default number of threads, from trees of files like the kernel's, and what the program does with it.
#include "machine/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>

#include "file_helpers.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

// A folder in the place of /, with the files that a test writes.
class ControlGroups : public testing::Test {
protected:
    void SetUp() override { fs::remove_all(root_); }
    void TearDown() override { fs::remove_all(root_); }

    void write(const std::string& path, const std::string& bytes) const {
        fs::create_directories(fs::path(root_ + path).parent_path());
        write_bytes(root_ + path, bytes);
    }
    std::optional<int64_t> cpus() const { return cgroup_cpus(root_); }

    const std::string root_ = temporary_path("cgroups");
};

TEST_F(ControlGroups, WithoutALimit) {
    EXPECT_EQ(cpus(), std::nullopt);  // no /proc at all
    write("/proc/self/cgroup", "0::/user.slice/session-1.scope\n");
    EXPECT_EQ(cpus(), std::nullopt);
    write("/sys/fs/cgroup/user.slice/cpu.max", "max 100000\n");
    EXPECT_EQ(cpus(), std::nullopt);
    write("/proc/self/cgroup", "4:cpu,cpuacct:/\n1:name=systemd:/\n");
    write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(cpus(), std::nullopt);
}

TEST_F(ControlGroups, Version2InAContainer) {
    write("/proc/self/cgroup", "0::/\n");
    write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    EXPECT_EQ(cpus(), 2);
}

TEST_F(ControlGroups, FractionsAreRoundedUp) {
    write("/proc/self/cgroup", "0::/\n");
    for (const auto& [quota, expected] :
         {std::pair("50000", 1), {"1000", 1}, {"100000", 1}, {"100001", 2}, {"250000", 3}, {"6400000", 64}}) {
        write("/sys/fs/cgroup/cpu.max", quota + std::string(" 100000\n"));
        EXPECT_EQ(cpus(), expected) << quota;
    }
    write("/sys/fs/cgroup/cpu.max", "30000 20000\n");
    EXPECT_EQ(cpus(), 2);
}

TEST_F(ControlGroups, TheSmallestQuotaOnTheWayUp) {
    write("/proc/self/cgroup", "0::/kubepods.slice/pod1/container\n");
    write("/sys/fs/cgroup/kubepods.slice/cpu.max", "4800000 100000\n");
    write("/sys/fs/cgroup/kubepods.slice/pod1/cpu.max", "300000 100000\n");
    write("/sys/fs/cgroup/kubepods.slice/pod1/container/cpu.max", "800000 100000\n");
    write("/sys/fs/cgroup/kubepods.slice/pod2/cpu.max", "100000 100000\n");  // somebody else's
    EXPECT_EQ(cpus(), 3);
    write("/sys/fs/cgroup/kubepods.slice/pod1/container/cpu.max", "max 100000\n");
    EXPECT_EQ(cpus(), 3);
    write("/sys/fs/cgroup/kubepods.slice/pod1/cpu.max", "max 100000\n");
    EXPECT_EQ(cpus(), 48);
}

TEST_F(ControlGroups, Version1) {
    write("/proc/self/cgroup", "5:cpuset:/a/b\n4:cpu,cpuacct:/a/b\n1:name=systemd:/\n0::/\n");
    for (const std::string folder : {"/sys/fs/cgroup/cpu/a", "/sys/fs/cgroup/cpu/a/b"}) {
        write(folder + "/cpu.cfs_period_us", "50000\n");
        write(folder + "/cpu.cfs_quota_us", folder.ends_with("b") ? "-1\n" : "90000\n");
    }
    EXPECT_EQ(cpus(), 2);
    write("/sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "40000\n");
    EXPECT_EQ(cpus(), 1);
    write("/proc/self/cgroup", "5:cpuset:/a/b\n4:cpu,cpuacct:/\n");
    EXPECT_EQ(cpus(), std::nullopt);
}

// A container of version 1 has only its own group under /sys, but the path from the machine's root in /proc.
TEST_F(ControlGroups, AContainerSeesOnlyItsOwnGroup) {
    write("/proc/self/cgroup", "4:cpu,cpuacct:/docker/0123abcd\n");
    write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
    write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(cpus(), 2);
    // A group within it, which only the mount's own top tells where to find.
    write("/proc/self/cgroup", "4:cpu,cpuacct:/docker/0123abcd/inner\n");
    write("/proc/self/mountinfo",
          "36 31 0:33 /docker/0123abcd /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct\n");
    write("/sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us", "100000\n");
    write("/sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(cpus(), 1);
    write("/proc/self/cgroup", "4:cpu,cpuacct:/../other\n");  // of another namespace
    EXPECT_EQ(cpus(), 2);
}

TEST_F(ControlGroups, MountedElsewhere) {
    write("/proc/self/cgroup", "0::/mine\n");
    write("/proc/self/mountinfo", "29 23 0:26 / /dev/groups rw shared:4 - cgroup2 cgroup2 rw\nshort line\n");
    write("/dev/groups/mine/cpu.max", "700000 100000\n");
    EXPECT_EQ(cpus(), 7);
}

TEST_F(ControlGroups, WhatIsNoQuotaIsNone) {
    write("/proc/self/cgroup", "0::/\nnonsense\n:\n");
    for (const char* contents : {"", "max", "200000", "0 0", "200000 0", "-5 100000", "many 100000"}) {
        write("/sys/fs/cgroup/cpu.max", contents);
        EXPECT_EQ(cpus(), std::nullopt) << contents;
    }
    write("/sys/fs/cgroup/cpu.max", "9223372036854775807 1");
    EXPECT_EQ(cpus(), INT64_MAX);
}

// ---- the program --------------------------------------------------------------------------------

// What the line "device: CPU, ..., N threads" of a shortest benchmark says, with these settings in the environment.
std::string threads_with(const std::string& environment) {
    const std::string out = temporary_path("threads.txt"),
                      command = "env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT " +
                                environment + " '" + program_path() +
                                "' bench --device cpu --width-generator 1 --width-ebm 1 --width-encoder 1 --latent 1 "
                                "--batch 1 --steps-x 1 --steps-z 1 --iterations 1 > '" +
                                out + "' 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    const std::string text = read_bytes(out);
    fs::remove(out);
    const size_t end = text.find(" thread"), begin = text.rfind(' ', end - 1) + 1;
    return end == std::string::npos ? text : text.substr(begin, end - begin);
}

TEST(Threads, TheProgramTakesWhatItMayUse) {
    cpu_set_t mine;
    ASSERT_EQ(sched_getaffinity(0, sizeof mine, &mine), 0);
    const int64_t usable = std::min(int64_t(CPU_COUNT(&mine)), cgroup_cpus().value_or(INT64_MAX));
    EXPECT_EQ(threads_with(""), std::to_string(usable));
    EXPECT_EQ(threads_with("OMP_NUM_THREADS=3"), "3");
    EXPECT_EQ(threads_with("OMP_NUM_THREADS=3,2"), "3");
    // It starts itself again to limit the spinning, while its first thread is bound to one processor.
    EXPECT_EQ(threads_with("OMP_PROC_BIND=true"), std::to_string(usable));
    EXPECT_EQ(threads_with("OMP_WAIT_POLICY=active OMP_PROC_BIND=true"), std::to_string(usable));
    EXPECT_EQ(threads_with("taskset -c " + std::to_string(sched_getcpu())), "1");
}

}  // namespace
}  // namespace dualmcmc::test

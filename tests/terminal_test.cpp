// Progress on terminals of several widths, and where no line can be redrawn.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "file_helpers.h"
#include "formats/progress_line.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

// ---- the line -----------------------------------------------------------------------------------

TEST(FitLine, LeavesOutTheLeastImportant) {
    const std::vector<ProgressPart> parts{{0, "10/20"}, {2, "  epoch 1"}, {1, "  ETA 5s"}, {3, " (T 1)"}};
    EXPECT_EQ(fit_line(parts, 200), "10/20  epoch 1  ETA 5s (T 1)");
    EXPECT_EQ(fit_line(parts, 29), "10/20  epoch 1  ETA 5s (T 1)");
    EXPECT_EQ(fit_line(parts, 28), "10/20  epoch 1  ETA 5s");
    EXPECT_EQ(fit_line(parts, 22), "10/20  ETA 5s");
    EXPECT_EQ(fit_line(parts, 13), "10/20");
    EXPECT_EQ(fit_line(parts, 4), "10/");
    for (const int columns : {2, 1, 0, -1}) EXPECT_EQ(fit_line(parts, columns), "1");
    EXPECT_EQ(fit_line({}, 80), "");
    EXPECT_EQ(fit_line({{1, "  first"}}, 80), "first");
}

TEST(Duration, HasTwoUnits) {
    for (const auto& [seconds, expected] : {std::pair(-1.0, "0m00s"),
                                            {6.4, "0m06s"},
                                            {187, "3m07s"},
                                            {3599.4, "59m59s"},
                                            {3599.5, "1h00m"},
                                            {3905, "1h05m"},
                                            {360000, "100h00m"}})
        EXPECT_EQ(duration(seconds), expected);
}

// A pseudo-terminal: a program writes to `name`, and the test reads what a person would see.
class Terminal {
public:
    explicit Terminal(int columns) : master_(posix_openpt(O_RDWR | O_NOCTTY)) {
        if (grantpt(master_) != 0 || unlockpt(master_) != 0)
            throw std::runtime_error("these tests need pseudo-terminals: mount /dev/pts");
        name_ = ptsname(master_);
        slave_ = open(name_.c_str(), O_RDWR | O_NOCTTY);
        EXPECT_GE(slave_, 0);
        resize(columns);
    }
    ~Terminal() {
        close(slave_);
        close(master_);
    }

    void resize(int columns) const {
        winsize window{};
        window.ws_col = static_cast<unsigned short>(columns);
        window.ws_row = 24;
        EXPECT_EQ(ioctl(slave_, TIOCSWINSZ, &window), 0);
    }

    int descriptor() const { return slave_; }

    // What this shell command writes. After the first redrawn line the window gets `columns_then`, if not 0.
    std::string run(const std::string& command, int columns_then = 0) {
        int code = -1;
        std::thread program([&] {
            code = std::system((command + " < " + name_ + " > " + name_ + " 2>&1; echo END > " + name_).c_str());
        });
        std::string out;
        char bytes[4096];
        while (out.find("END\r\n") == std::string::npos) {
            const ssize_t count = read(master_, bytes, sizeof bytes);
            if (count <= 0) break;
            out.append(bytes, size_t(count));
            if (columns_then && out.find("\r\033[K") != std::string::npos) resize(std::exchange(columns_then, 0));
        }
        program.join();
        EXPECT_EQ(code, 0) << out;
        return out.substr(0, out.find("END\r\n"));
    }

private:
    int master_, slave_ = -1;
    std::string name_;
};

TEST(WindowColumns, WhatTheTerminalSaysComesFirst) {
    Terminal terminal(57);
    setenv("COLUMNS", "33", 1);
    EXPECT_EQ(window_columns(terminal.descriptor()), 57);
    terminal.resize(20);
    EXPECT_EQ(window_columns(terminal.descriptor()), 20);
    terminal.resize(0);  // as on a serial line
    EXPECT_EQ(window_columns(terminal.descriptor()), 33);
    for (const char* columns : {"", "0", "-7", "wide", "99999999999999999999"}) {
        setenv("COLUMNS", columns, 1);
        EXPECT_EQ(window_columns(terminal.descriptor()), 80) << columns;
    }
    unsetenv("COLUMNS");
    EXPECT_EQ(window_columns(terminal.descriptor()), 80);
}

// ---- the program --------------------------------------------------------------------------------

// The lines that were redrawn.
std::vector<std::string> redrawn(const std::string& bytes) {
    const std::string mark = "\r\033[K";
    std::vector<std::string> out;
    for (size_t at = bytes.find(mark); at != std::string::npos; at = bytes.find(mark, at + 1)) {
        const size_t begin = at + mark.size();
        out.push_back(bytes.substr(begin, bytes.find_first_of("\r\n", begin) - begin));
    }
    return out;
}

class Progress : public testing::Test {
protected:
    void SetUp() override { fs::remove_all(folder_); }
    void TearDown() override { fs::remove_all(folder_); }

    std::string train(const std::string& environment, int iterations) const {
        return "env -u COLUMNS " + environment + " OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= '" + program_path() +
               "' train --preset demo --width-generator 2 --width-ebm 2 --width-encoder 1 --latent 2 --batch 2 "
               "--steps-x 1 --steps-z 1 --sampler-batch 50 --iterations " +
               std::to_string(iterations) + " --out '" + folder_ + "/run'";
    }

    const std::string folder_ = temporary_path("terminal");
};

TEST_F(Progress, OneLineThatFitsTheWindow) {
    for (const size_t columns : {20, 40, 80, 200}) {
        fs::remove_all(folder_);
        Terminal terminal{int(columns)};
        const std::vector<std::string> lines = redrawn(terminal.run(train("TERM=xterm-256color", 4)));
        ASSERT_EQ(lines.size(), 4u);
        for (const std::string& line : lines) {
            EXPECT_LT(line.size(), columns);
            EXPECT_NE(line.find("/4  "), std::string::npos) << line;
            EXPECT_NE(line.find("ETA "), std::string::npos) << line;
            EXPECT_EQ(line.find("mse") != std::string::npos, columns >= 40) << line;
            EXPECT_EQ(line.find("energy gap") != std::string::npos, columns >= 80) << line;
            EXPECT_EQ(line.find("updates") != std::string::npos, columns == 200) << line;
        }
    }
}

TEST_F(Progress, FollowsResizing) {
    Terminal terminal(200);
    const std::vector<std::string> lines = redrawn(terminal.run(train("TERM=xterm", 300), 40));
    ASSERT_EQ(lines.size(), 300u);
    EXPECT_GT(lines.front().size(), 40u);
    EXPECT_LT(lines.back().size(), 40u);
}

// The words that every tenth line of progress begins with, and no control characters.
void expect_plain(const std::string& bytes) {
    EXPECT_EQ(bytes.find('\033'), std::string::npos) << bytes;
    for (size_t at = bytes.find('\r'); at != std::string::npos; at = bytes.find('\r', at + 1))
        EXPECT_EQ(bytes.substr(at, 2), "\r\n") << bytes;
    for (int i = 1; i <= 25; ++i)
        EXPECT_EQ(bytes.find("\n" + std::to_string(i) + "/25  epoch") != std::string::npos, i % 10 == 0 || i == 25)
            << i << "\n"
            << bytes;
    EXPECT_NE(bytes.find("updates"), std::string::npos) << bytes;
}

TEST_F(Progress, PlainLinesWhereNoneCanBeRedrawn) {
    for (const char* environment : {"TERM=dumb", "-u TERM", "TERM="}) {
        fs::remove_all(folder_);
        Terminal terminal(80);
        expect_plain(terminal.run(train(environment, 25)));
    }
}

TEST_F(Progress, PlainLinesInAFile) {
    fs::create_directories(folder_);
    const std::string out = folder_ + "/out.txt";
    ASSERT_EQ(std::system((train("TERM=xterm COLUMNS=20", 25) + " > '" + out + "'").c_str()), 0);
    expect_plain(read_bytes(out));
}

TEST_F(Progress, AnErrorHasALineOfItsOwn) {
    fs::create_directories(folder_ + "/run/report.html/in_the_way");
    Terminal terminal(200);
    const std::string bytes = terminal.run(train("TERM=xterm", 5) + " --checkpoint-every 2");
    size_t errors = 0;
    for (size_t at = 0; (at = bytes.find("report.html was not written", at)) != std::string::npos; ++at, ++errors)
        EXPECT_EQ(bytes.substr(at - 1, 1), "\n") << bytes;
    EXPECT_EQ(errors, 4u) << bytes;  // at iterations 0, 2, 4, 5
}

TEST_F(Progress, SamplesAreCountedInOneLine) {
    ASSERT_EQ(std::system((train("", 1) + " > /dev/null").c_str()), 0);
    Terminal terminal(20);
    const std::vector<std::string> lines = redrawn(terminal.run(
        "env TERM=xterm OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= '" + program_path() + "' sample --model '" + folder_ +
        "/run/checkpoints/iteration-000001.safetensors' --count 4 --batch 2 --steps-x 5000 --out '" + folder_ +
        "/samples'"));
    ASSERT_FALSE(lines.empty());
    EXPECT_EQ(lines.back(), "4/4  ETA 0m00s");
}

}  // namespace
}  // namespace dualmcmc::test

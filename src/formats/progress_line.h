// Progress as one line: redrawn in place on a terminal, plain lines elsewhere.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace dualmcmc {

// "1h05m" or "3m07s".
std::string duration(double seconds);

// A piece of the line, with the spaces before it. Of a line that is too wide, the pieces of highest rank go first.
struct ProgressPart {
    int rank;
    std::string text;
};

// The parts in one line of at most columns - 1 characters, since some terminals wrap after the last column. The part
// that stays last is cut if it must be.
std::string fit_line(const std::vector<ProgressPart>& parts, int columns);

// The width of the terminal's window, at this moment: what the terminal says, else $COLUMNS, else 80.
int window_columns(int descriptor);

// On a terminal each show() replaces the line before and fits the window, whatever its width is by then. In a file, in
// a pipe, and on a terminal that cannot go back within a line (TERM=dumb), show() appends a whole line without control
// characters; call it less often there.
class ProgressLine {
public:
    // Without `may_redraw` it is not taken for a terminal, whatever it is.
    explicit ProgressLine(std::FILE* out, bool may_redraw = true);
    // Ends the line, so that an error message has its own.
    ~ProgressLine() { end(); }
    ProgressLine(const ProgressLine&) = delete;
    ProgressLine& operator=(const ProgressLine&) = delete;

    bool redraws() const { return redraws_; }
    void show(const std::vector<ProgressPart>& parts);
    // Later output begins on a new line.
    void end();

private:
    std::FILE* out_;
    bool redraws_, open_ = false;
};

// "reading pictures: 300/1000  120 pictures/s  ETA 0m06s" on stderr: redrawn on a terminal, elsewhere a line every few
// seconds. Nothing for what takes less.
class CountProgress {
public:
    // `label`: what stands before the numbers. Counts from `begin` to `total`.
    CountProgress(std::string label, std::string unit, int64_t begin, int64_t total);
    void show(int64_t done);
    void end() { line_.end(); }

private:
    ProgressLine line_{stderr};
    std::string label_, unit_;
    int64_t begin_, total_;
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now(), shown_ = began_;
};

}  // namespace dualmcmc

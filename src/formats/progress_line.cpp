// See progress_line.h.
#include "formats/progress_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "check.h"

namespace dualmcmc {

namespace {

// Of the parts up to this rank.
std::string joined(const std::vector<ProgressPart>& parts, int rank) {
    std::string line;
    for (const ProgressPart& part : parts)
        if (part.rank <= rank) line += part.text;
    return line.substr(std::min(line.size(), line.find_first_not_of(' ')));
}

bool goes_back_in_a_line() {
    const char* const term = std::getenv("TERM");
    const std::string name = term ? term : "";
    return !name.empty() && name != "dumb" && name != "unknown";
}

}  // namespace

std::string duration(double seconds) {
    const int64_t whole = std::llround(std::max(0.0, seconds)), minutes = whole / 60 % 60;
    const auto two_digits = [](int64_t n) { return text(n < 10 ? "0" : "", n); };
    return whole >= 3600 ? text(whole / 3600, "h", two_digits(minutes), "m")
                         : text(minutes, "m", two_digits(whole % 60), "s");
}

std::string fit_line(const std::vector<ProgressPart>& parts, int columns) {
    const size_t width = size_t(std::max(1, columns - 1));
    int lowest = INT_MAX, highest = INT_MIN;
    for (const ProgressPart& part : parts) lowest = std::min(lowest, part.rank), highest = std::max(highest, part.rank);
    for (int rank = highest; rank > lowest; --rank)
        if (const std::string line = joined(parts, rank); line.size() <= width) return line;
    return joined(parts, lowest).substr(0, width);
}

int window_columns(int descriptor) {
    winsize window{};
    if (ioctl(descriptor, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) return window.ws_col;
    const char* const columns = std::getenv("COLUMNS");
    const long value = columns ? std::strtol(columns, nullptr, 10) : 0;
    return value > 0 && value <= USHRT_MAX ? int(value) : 80;
}

ProgressLine::ProgressLine(std::FILE* out, bool may_redraw)
    : out_(out), redraws_(may_redraw && isatty(fileno(out)) && goes_back_in_a_line()) {}

void ProgressLine::show(const std::vector<ProgressPart>& parts) {
    if (redraws_) std::fprintf(out_, "\r\033[K%s", fit_line(parts, window_columns(fileno(out_))).c_str());
    else std::fprintf(out_, "%s\n", joined(parts, INT_MAX).c_str());
    std::fflush(out_);
    open_ = redraws_;
}

void ProgressLine::end() {
    if (open_) std::fprintf(out_, "\n");
    std::fflush(out_);
    open_ = false;
}

CountProgress::CountProgress(std::string label, std::string unit, int64_t begin, int64_t total)
    : label_(std::move(label)), unit_(std::move(unit)), begin_(begin), total_(total) {}

void CountProgress::show(int64_t done) {
    const auto now = std::chrono::steady_clock::now();
    const bool is_end = done == total_ && shown_ != began_;
    if (!is_end && now - shown_ < std::chrono::milliseconds(line_.redraws() ? 200 : 5000)) return;
    shown_ = now;
    const double rate = double(done - begin_) / std::chrono::duration<double>(now - began_).count();
    line_.show({{0, text(label_, done, "/", total_)},
                {2, formatted("  %.3g ", rate) + unit_ + "/s"},
                {1, "  ETA " + duration(double(total_ - done) / rate)}});
}

}  // namespace dualmcmc

// report.html: a run's folder on one page that needs no network. It has the curves of metrics.csv as SVG, the newest
// pictures, a section per experiment (summary.txt, *.csv, *.png) and the configuration. Everything is embedded, and all
// text is escaped.
//
// `dualmcmc report RUN_DIR` writes it; so do training, after each checkpoint, and the experiments.
#pragma once
#include <CLI/CLI.hpp>

#include <string>
#include <vector>

#include "experiments/csv.h"

namespace dualmcmc {

// Writes RUN/report.html, complete or not at all. A folder that is not a run but holds a grid's summary.txt gets a page
// with that section alone. Fails if the folder is neither.
void write_report(const std::string& run);

class ReportCommand {
public:
    explicit ReportCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    int run();

private:
    CLI::App* command_;
    std::string folder_;
};

// Parts of it, exposed for the tests:

// Escapes a text for HTML, between tags and in quoted attributes.
std::string escape_html(const std::string& text);

// RFC 4648, with padding.
std::string base64(const std::string& bytes);

// A curve of a plot: one y per x; NaN for a missing value.
struct Curve {
    std::string name;
    std::vector<double> y;
};
// A figure with an SVG of the curves over x and a legend. Points at which no curve has a value are left out; of more
// than 300, neighbours are averaged. The vertical axis is logarithmic if all values are positive and span a factor of
// 15. Curves of one point each are given as text. Of more than 12 curves the first 12 are drawn. Empty if no curve has
// a value.
std::string plot(const std::string& title, const std::string& x_name, std::vector<double> x, std::vector<Curve> curves);

}  // namespace dualmcmc

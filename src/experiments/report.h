// report.html: what a run's folder holds, on one page that needs no network: curves of metrics.csv as SVG, the newest
// grids, a section for each experiment (summary.txt, *.csv, *.png), the configuration. Everything is embedded; every
// text is escaped.
//
// `dualmcmc report RUN_DIR` writes it; so do training, after each checkpoint, and the experiments.
#pragma once
#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace dualmcmc {

// Writes RUN/report.html, complete or not at all; of a folder that is no run but holds a grid's summary.txt, the page
// of that section alone. Fails where there is neither.
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

// Its pieces, for the tests:

// A text as it may stand in HTML, between tags and in quoted attributes.
std::string escape_html(const std::string& text);

// RFC 4648, with padding.
std::string base64(const std::string& bytes);

// A .csv's header and its rows; quoted cells as RFC 4180. Rows that have not as many cells as the header (the last one,
// perhaps, of a file that is still being written) are left out.
struct CsvTable {
    std::vector<std::string> header;
    std::vector<std::vector<std::string>> rows;
};
CsvTable parse_csv(const std::string& text);

// A line of a plot: y by x; NaN where there is no value.
struct Curve {
    std::string name;
    std::vector<double> y;
};
// A figure with an SVG of the curves over x and a legend. More than 300 points become means of neighbours. The vertical
// axis is logarithmic where all values are positive and span a factor of 15. Empty where no curve has a value.
std::string plot(const std::string& title, const std::string& x_name, const std::vector<double>& x,
                 const std::vector<Curve>& curves);

}  // namespace dualmcmc

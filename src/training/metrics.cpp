// See metrics.h.
#include "training/metrics.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "formats/files.h"

namespace dualmcmc {

bool Metrics::diverged(double max_energy_gap) const {
    for (const auto& value : {mse, energy_data, energy_model, loss_revise, nll_posterior, nll_generated})
        if (value && !std::isfinite(*value)) return true;
    return gap && !(std::abs(*gap) <= max_energy_gap);
}

Metrics read_metrics(const StepResult& r, const Shape& images) {
    const double pixels = double(images[1] * images[2] * images[3]);
    auto number = [](const Tensor& scalar) {
        return scalar.defined() ? std::optional(double(scalar.item())) : std::nullopt;
    };
    Metrics m;
    if (m.mse = number(r.loss_recon); m.mse) *m.mse /= pixels;
    m.energy_data = number(r.energy_data);
    m.energy_model = number(r.energy_model);
    if (m.energy_data && m.energy_model) m.gap = *m.energy_model - *m.energy_data;
    m.loss_revise = number(r.loss_revise);
    m.nll_posterior = number(r.kl.defined() ? r.kl : r.nll_posterior);
    m.nll_generated = number(r.nll_generated);
    m.seconds = r.seconds;
    return m;
}

// ---- reading ------------------------------------------------------------------------------------

namespace {

std::vector<std::string> cells_of(const std::string& line) {
    std::vector<std::string> cells(1);
    for (const char c : line) {
        if (c == ',') cells.emplace_back();
        else if (c != '\r') cells.back() += c;
    }
    return cells;
}

bool is_number(const std::string& cell) {
    char* end = nullptr;
    std::strtod(cell.c_str(), &end);
    return !cell.empty() && end == cell.c_str() + cell.size();
}

bool is_whole(const std::vector<std::string>& cells, size_t columns) {
    return cells.size() == columns && is_number(cells[0]) &&
           std::all_of(cells.begin(), cells.end(), [](const auto& cell) { return cell.empty() || is_number(cell); });
}

// Drops a row whose iteration is not between those of its neighbours, while theirs are in order.
void drop_disordered(std::vector<std::vector<std::string>>& rows) {
    const auto iteration = [&](size_t row) { return std::atof(rows[row][0].c_str()); };
    std::vector<std::vector<std::string>> kept;
    for (size_t i = 0; i < rows.size(); ++i) {
        const bool after = kept.empty() || iteration(i) > std::atof(kept.back()[0].c_str());
        const bool jumps = i + 1 < rows.size() && iteration(i) >= iteration(i + 1) &&
                           (kept.empty() || iteration(i + 1) > std::atof(kept.back()[0].c_str()));
        if (after && !jumps) kept.push_back(rows[i]);
    }
    rows = kept;
}

}  // namespace

MetricsTable parse_metrics(const std::string& text) {
    MetricsTable table;
    std::istringstream lines(text.substr(0, text.rfind('\n') + 1));  // an unterminated last row is incomplete
    std::string line;
    if (std::getline(lines, line)) table.header = cells_of(line);
    while (std::getline(lines, line))
        if (const auto cells = cells_of(line); is_whole(cells, table.header.size())) table.rows.push_back(cells);
    drop_disordered(table.rows);
    return table;
}

// ---- writing ------------------------------------------------------------------------------------

namespace {

// Names that programs may already read stay as they are: nll_prior is StepResult::nll_generated.
constexpr const char* header =
    "iteration,epoch,mse,energy_data,energy_model,energy_gap,loss_revise,nll_posterior,nll_prior,"
    "seconds,seconds_chain_x,seconds_chain_z,seconds_generator,seconds_encoder,seconds_ebm,"
    "distance_generator,distance_revised,lr_generator,lr_ebm,lr_encoder";

}  // namespace

MetricsFile::MetricsFile(const std::string& path, int64_t iteration) : path_(path) { rewind(iteration); }

void MetricsFile::rewind(int64_t iteration) {
    const MetricsTable before = parse_metrics(std::filesystem::exists(path_) ? read_file(path_) : "");
    std::string kept = text(header, "\n");
    for (const auto& row : before.rows) {
        if (std::atof(row[0].c_str()) > double(iteration)) continue;
        std::string line;
        for (const std::string& name : cells_of(header)) {
            const auto found = std::find(before.header.begin(), before.header.end(), name);
            line += (name == "iteration" ? "" : ",") +
                    (found == before.header.end() ? "" : row[size_t(found - before.header.begin())]);
        }
        kept += line + "\n";
    }
    write_file(path_, kept);
}

void MetricsFile::row(int64_t iteration, int64_t epoch, const Metrics& m, const std::string& distances) {
    std::ofstream out(path_, std::ios::app);
    out << iteration << ',' << epoch << ',';
    for (const auto& value :
         {m.mse, m.energy_data, m.energy_model, m.gap, m.loss_revise, m.nll_posterior, m.nll_generated}) {
        if (value) out << *value;
        out << ',';
    }
    if (iteration == 0) out << ",,,,,,";
    else
        out << m.wall_seconds << ',' << m.seconds.chain_x << ',' << m.seconds.chain_z << ',' << m.seconds.generator
            << ',' << m.seconds.encoder << ',' << m.seconds.ebm << ',';
    out << distances;
    for (const double rate : m.learning_rates) out << ',' << rate;
    out << '\n';
    out.flush();
    if (!out) fail(path_, ": cannot be written; is the disk full? Free some space and continue with --resume");
}

}  // namespace dualmcmc

// See grid_files.h.
#include "experiments/grid_files.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "experiments/csv.h"
#include "formats/npy.h"
#include "numbers.h"
#include "training/config.h"

namespace dualmcmc {

const std::vector<ResultColumn>& result_columns() {
    static const std::vector<ResultColumn> columns{{"seed", &Result::seed},
                                                   {"count", &Result::count},
                                                   {"iterations", &Result::iterations},
                                                   {"returns", &Result::rollbacks},
                                                   {"gave_up", &Result::gave_up},
                                                   {"processor_seconds", &Result::cpu_seconds},
                                                   {"seconds", &Result::wall_seconds},
                                                   {"seconds_chain_x", &Result::chain_x},
                                                   {"seconds_chain_z", &Result::chain_z},
                                                   {"seconds_generator", &Result::generator},
                                                   {"seconds_encoder", &Result::encoder},
                                                   {"seconds_ebm", &Result::ebm},
                                                   {"mse", &Result::mse},
                                                   {"distance_generator", &Result::distance_generator},
                                                   {"distance_revised", &Result::distance_revised}};
    return columns;
}

void write_results(const std::string& path, const std::vector<Result>& results) {
    std::vector<std::string> fields{"cell"};
    for (const auto& [name, field] : result_columns()) fields.push_back(name);
    Csv table(fields);
    for (const Result& result : results) {
        fields = {result.variant};
        for (const auto& [name, field] : result_columns())
            fields.push_back(result.*field ? digits(*(result.*field)) : "");
        table.row(fields);
    }
    table.write(path);
}

std::vector<CsvRow> read_rows(const std::string& path) {
    std::error_code error;
    if (!std::filesystem::exists(path, error)) return {};
    const CsvTable table = parse_csv(read_file(path));
    std::vector<CsvRow> out;
    for (const auto& fields : table.rows) {
        out.emplace_back();
        for (size_t c = 0; c < fields.size(); ++c) out.back()[table.header[c]] = fields[c];
    }
    return out;
}

namespace {

// The row's cell; fails if there is no such column.
const std::string& cell(const CsvRow& row, const std::string& column, const std::string& path) {
    const auto found = row.find(column);
    if (found == row.end()) fail(path, ": damaged: it has no column '", column, "'");
    return found->second;
}

double number(const CsvRow& row, const std::string& column, const std::string& path) {
    double value = 0;
    if (const std::string wrong = read_number(cell(row, column, path), value); !wrong.empty())
        fail(path, ": damaged: '", column, "' is '", excerpt(cell(row, column, path)), "': ", wrong);
    return value;
}

}  // namespace

namespace {
std::vector<double> numbers(const std::vector<CsvRow>& rows, const std::string& column) {
    std::vector<double> values;
    for (const CsvRow& row : rows)
        if (const auto found = row.find(column); found != row.end())
            if (const auto value = to_number<double>(found->second)) values.push_back(*value);
    return values;
}
}  // namespace

std::optional<double> mean(const std::vector<CsvRow>& rows, const std::string& column) {
    const std::vector<double> values = numbers(rows, column);
    if (values.empty()) return {};
    return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

std::optional<double> median(const std::vector<CsvRow>& rows, const std::string& column) {
    std::vector<double> values = numbers(rows, column);
    if (values.empty()) return {};
    std::sort(values.begin(), values.end());
    return 0.5 * (values[(values.size() - 1) / 2] + values[values.size() / 2]);
}

ResultPictures read_result_pictures(const std::string& path, int64_t size) {
    NpyImages images(path);
    if (images.count != 2 * picture_images || images.height != size || images.width != size)
        fail(path, ": damaged: it holds ", images.count, " images of ", images.height, "x", images.width, ", not ",
             2 * picture_images, " of ", size, "x", size);
    ResultPictures out;
    for (ImageSet* kind : {&out.generated, &out.revised}) {
        *kind = {picture_images, size, std::vector<uint8_t>(size_t(picture_images * size * size * 3)), ""};
        for (int64_t i = 0; i < picture_images; ++i) images.read_next(kind->pixels.data() + i * size * size * 3);
    }
    return out;
}

std::optional<Result> read_result(const std::string& folder, int64_t count, int64_t size, std::string& damage) {
    const std::string path = folder + "/result.csv";
    try {
        const std::vector<CsvRow> rows = read_rows(path);
        if (rows.size() != 1) return {};
        Result result;
        result.variant = cell(rows[0], "cell", path);
        for (const auto& [name, field] : result_columns())
            if (!cell(rows[0], name, path).empty()) result.*field = number(rows[0], name, path);
        if (result.count != double(count)) return {};
        read_result_pictures(folder + "/result.npy", size);
        return result;
    } catch (const std::exception& error) {
        damage = explain(error);
        return {};
    }
}

std::vector<BudgetRow> read_budget(const std::string& path) {
    std::vector<BudgetRow> out;
    try {
        for (const CsvRow& row : read_rows(path)) {
            const double seconds = number(row, "seconds", path), iterations = number(row, "iterations", path);
            if (!(seconds >= 0) || !(iterations >= 1 && iterations <= double(max_iterations)))
                fail(path, ": damaged: ", seconds, " seconds and ", iterations, " iterations");
            out.push_back({cell(row, "cell", path), row.count("settings") ? row.at("settings") : "",
                           number(row, "minutes", path), seconds, int64_t(iterations)});
        }
    } catch (const std::exception& error) {
        fail(explain(error), "; delete it, and iterations are timed again");
    }
    return out;
}

void write_budget(const std::string& path, const std::vector<BudgetRow>& rows) {
    Csv table({"cell", "settings", "minutes", "seconds", "iterations"});
    for (const BudgetRow& r : rows)
        table.row({r.variant, r.settings, exact_digits(r.minutes), digits(r.seconds), text(r.iterations)});
    table.write(path);
}

}  // namespace dualmcmc

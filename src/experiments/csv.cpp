// See csv.h.
#include "experiments/csv.h"

#include <cmath>
#include <cstdlib>
#include <iomanip>
#include <limits>

#include "check.h"
#include "real.h"

namespace dualmcmc {

std::string digits(double value) {
    if (value == std::trunc(value) && std::abs(value) < double(1ll << 53)) return formatted("%.0f", value);
    return text(std::setprecision(std::numeric_limits<real>::max_digits10), value);
}

std::string exact_digits(double value) {
    const std::string few = formatted("%.9g", value);
    return std::strtod(few.c_str(), nullptr) == value ? few : formatted("%.17g", value);
}

void Csv::row(const std::vector<std::string>& fields) {
    for (size_t i = 0; i < fields.size(); ++i) {
        if (i > 0) text_ += ',';
        if (fields[i].find_first_of(",\"\n") == std::string::npos) {
            text_ += fields[i];
            continue;
        }
        text_ += '"';
        for (const char c : fields[i]) text_ += c == '"' ? "\"\"" : std::string(1, c);
        text_ += '"';
    }
    text_ += '\n';
}

void Csv::row(const std::vector<double>& values) {
    std::vector<std::string> fields;
    for (const double value : values) fields.push_back(digits(value));
    row(fields);
}

void Csv::row(const std::string& name, const std::vector<double>& values) {
    std::vector<std::string> fields{name};
    for (const double value : values) fields.push_back(digits(value));
    row(fields);
}

CsvTable parse_csv(const std::string& text) {
    CsvTable table;
    std::vector<std::string> cells(1);
    auto end_row = [&] {
        if (table.header.empty()) table.header = cells;
        else if (cells.size() == table.header.size()) table.rows.push_back(cells);
        cells.assign(1, "");
    };
    bool quoted = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (quoted) {
            if (c != '"') cells.back() += c;
            else if (i + 1 < text.size() && text[i + 1] == '"') cells.back() += text[++i];
            else quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == ',') {
            cells.emplace_back();
        } else if (c == '\n') {
            end_row();
        } else if (c != '\r') {
            cells.back() += c;
        }
    }
    return table;  // an unterminated last row is incomplete
}

}  // namespace dualmcmc

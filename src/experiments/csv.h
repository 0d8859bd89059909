// Tables in .csv files, written and read.
#pragma once
#include <string>
#include <vector>

#include "formats/files.h"

namespace dualmcmc {

// A table with a header and rows of numbers or text, written complete or not at all. Text with commas or quotes is
// quoted (RFC 4180).
class Csv {
public:
    explicit Csv(const std::vector<std::string>& header) { row(header); }
    void row(const std::vector<std::string>& fields);
    // Values have as many digits as restore a real exactly.
    void row(const std::vector<double>& values);
    void row(const std::string& name, const std::vector<double>& values);
    void write(const std::string& path) const { write_file(path, text_); }

private:
    std::string text_;
};

// A value with as many digits as restore a real exactly; whole numbers with all of theirs.
std::string digits(double value);
// As many as restore the double itself.
std::string exact_digits(double value);

// The header and rows of a .csv file; quoted fields as in RFC 4180. Rows with another number of fields than the header
// are skipped (such as the last row of a file that is still being written).
struct CsvTable {
    std::vector<std::string> header;
    std::vector<std::vector<std::string>> rows;
};
CsvTable parse_csv(const std::string& text);

}  // namespace dualmcmc

// The report, from the bottom up: text, plots, sections, the page.
#include "experiments/report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>

#include "formats/files.h"
#include "training/config.h"
#include "training/metrics.h"

namespace dualmcmc {

namespace fs = std::filesystem;

// ---- text ---------------------------------------------------------------------------------------

std::string escape_html(const std::string& text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            case '\'':
                out += "&#39;";
                break;
            case '\n':
            case '\t':
                out += c;
                break;
            default:  // no page may hold other control characters
                if (static_cast<unsigned char>(c) < ' ') out += escaped(std::string(1, c));
                else out += c;
        }
    }
    return out;
}

std::string base64(const std::string& bytes) {
    static constexpr char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    out.reserve((bytes.size() + 2) / 3 * 4);
    for (size_t i = 0; i < bytes.size(); i += 3) {
        const size_t left = std::min<size_t>(3, bytes.size() - i);
        uint32_t word = 0;
        for (size_t j = 0; j < 3; ++j) word = word << 8 | (j < left ? uint8_t(bytes[i + j]) : 0u);
        for (size_t j = 0; j < 4; ++j) out += j <= left ? alphabet[word >> (18 - 6 * j) & 63] : '=';
    }
    return out;
}

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();

// A table cell as a number: nothing if it is text, NaN if it is empty.
std::optional<double> number(const std::string& cell) {
    if (cell.empty()) return missing;
    double value = 0;
    const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (error != std::errc() || end != cell.data() + cell.size()) return {};
    return value;
}

std::string short_number(double value) { return formatted("%.4g", value); }

std::string replace_underscores(std::string text) {
    std::replace(text.begin(), text.end(), '_', ' ');
    return text;
}

// A column as numbers; empty if one of its cells is text.
std::vector<double> column(const CsvTable& table, size_t index) {
    std::vector<double> out;
    for (const auto& row : table.rows) {
        const std::optional<double> value = number(row[index]);
        if (!value) return {};
        out.push_back(*value);
    }
    return out;
}

// ---- plots --------------------------------------------------------------------------------------

constexpr size_t max_points = 300, max_curves = 12;
// In SVG units, about the pixels of a phone.
constexpr double plot_width = 400, plot_height = 230, left = 52, right = 10, top = 8, bottom = 34;
// Okabe and Ito's colours, which colour-blind people can tell apart; dashes do the same in black and white.
constexpr const char* colours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                   "#E69F00", "#56B4E9", "#000000", "#777777"};
constexpr const char* dashes[] = {"none", "6 3", "2 2", "9 3 2 3"};

std::string stroke(size_t curve) {
    return text("stroke=\"", colours[curve % std::size(colours)], "\" stroke-dasharray=\"",
                dashes[curve % std::size(dashes)], "\"");
}

// Means of `per` neighbours each, ignoring values that are not finite.
std::vector<double> thinned(const std::vector<double>& values, size_t per) {
    std::vector<double> out;
    for (size_t first = 0; first < values.size(); first += per) {
        double sum = 0;
        int count = 0;
        for (size_t i = first; i < std::min(values.size(), first + per); ++i)
            if (std::isfinite(values[i])) sum += values[i], ++count;
        out.push_back(count ? sum / count : missing);
    }
    return out;
}

// Maps values to positions, and has the ticks.
struct Axis {
    double low, high;
    bool logarithmic = false;
    std::vector<double> ticks;

    // In [0, 1].
    double position(double value) const {
        if (logarithmic) return (std::log(value) - std::log(low)) / (std::log(high) - std::log(low));
        return (value / 2 - low / 2) / (high / 2 - low / 2);  // halved: the width of all doubles is no double
    }
};

// 1, 2 and 5 times the powers of ten in the range, or only the powers of ten over more than three decades.
std::vector<double> logarithmic_ticks(double low, double high) {
    std::vector<double> ticks;
    const bool decades = std::log10(high) - std::log10(low) > 3;
    const int first = int(std::floor(std::log10(low))), last = int(std::ceil(std::log10(high)));
    const int stride = std::max(1, (last - first) / 8);
    for (int exponent = first; exponent <= last; exponent += decades ? stride : 1)
        for (const double factor : {1.0, 2.0, 5.0})
            if (const double tick = factor * std::pow(10, exponent);
                tick >= low && tick <= high && (factor == 1 || !decades))
                ticks.push_back(tick);
    return ticks;
}

// Multiples of 1, 2 or 5 times a power of ten, about five of them. Each is computed from a count, so that there is an
// end where the step is lost in rounding.
std::vector<double> linear_ticks(double low, double high) {
    std::vector<double> ticks;
    const double rough = high / 5 - low / 5, power = std::pow(10, std::floor(std::log10(rough)));
    const double step = power * (rough / power < 1.5 ? 1 : rough / power < 3.5 ? 2 : rough / power < 7.5 ? 5 : 10);
    if (!std::isnormal(step) || !std::isfinite(low / step) || !std::isfinite(high / step)) return {low, high};
    const double first = std::ceil(low / step);
    for (int k = 0; k < 12; ++k) {
        const double multiple = first + k, tick = multiple == 0 ? 0 : multiple * step;
        if (tick > high) break;
        if (tick >= low && (ticks.empty() || tick > ticks.back())) ticks.push_back(tick);
    }
    return ticks;
}

// An axis for values from `low` to `high`, any finite numbers.
Axis make_axis(double low, double high, bool may_be_logarithmic) {
    Axis axis{low, high, may_be_logarithmic && low > 0 && high / 15 >= low, {}};
    // Fewer than a few thousand doubles between its ends are no range that ticks could divide.
    const double margin = std::max({std::abs(low), std::abs(high), 1e-300}) * 1e-12;
    if (!axis.logarithmic && high - low <= margin) {
        const double wide = std::max(std::abs(low) * 0.05, std::abs(low) < 1e-100 ? 1e-6 : 0);
        axis.low = std::max(low - wide, std::numeric_limits<double>::lowest());
        axis.high = std::min(high + wide, std::numeric_limits<double>::max());
    }
    axis.ticks = axis.logarithmic ? logarithmic_ticks(axis.low, axis.high) : linear_ticks(axis.low, axis.high);
    return axis;
}

// The lowest and highest finite value, if any.
std::optional<std::pair<double, double>> range_of(const std::vector<std::vector<double>>& curves) {
    std::optional<std::pair<double, double>> range;
    for (const auto& curve : curves)
        for (const double value : curve) {
            if (!std::isfinite(value)) continue;
            if (!range) range = {value, value};
            range = {std::min(range->first, value), std::max(range->second, value)};
        }
    return range;
}

std::string axes_svg(const Axis& x, const Axis& y, const std::string& x_name) {
    const double width = plot_width - left - right, height = plot_height - top - bottom;
    std::string out;
    for (const double tick : y.ticks) {
        const double at = top + height * (1 - y.position(tick));
        out += text("<line class=\"grid\" x1=\"", left, "\" x2=\"", left + width, "\" y1=\"", at, "\" y2=\"", at,
                    "\"/><text x=\"", left - 5, "\" y=\"", at + 4, "\" text-anchor=\"end\">", short_number(tick),
                    "</text>");
    }
    for (const double tick : x.ticks) {
        const double at = left + width * x.position(tick);
        out += text("<line class=\"axis\" x1=\"", at, "\" x2=\"", at, "\" y1=\"", top + height, "\" y2=\"",
                    top + height + 4, "\"/><text x=\"", at, "\" y=\"", top + height + 15, "\" text-anchor=\"middle\">",
                    short_number(tick), "</text>");
    }
    out += text("<line class=\"axis\" x1=\"", left, "\" x2=\"", left + width, "\" y1=\"", top + height, "\" y2=\"",
                top + height, "\"/>");
    return out + text("<text x=\"", left + width / 2, "\" y=\"", plot_height - 4, "\" text-anchor=\"middle\">",
                      escape_html(x_name), "</text>");
}

std::string curve_svg(const Axis& x_axis, const Axis& y_axis, const std::vector<double>& x,
                      const std::vector<double>& y, size_t index) {
    const double width = plot_width - left - right, height = plot_height - top - bottom;
    std::string points, dots;
    size_t count = 0;
    for (size_t i = 0; i < y.size(); ++i) {
        if (!std::isfinite(y[i]) || !std::isfinite(x[i])) continue;
        char point[48];
        std::snprintf(point, sizeof point, "%.1f,%.1f ", left + width * x_axis.position(x[i]),
                      top + height * (1 - y_axis.position(y[i])));
        points += point;
        const std::string at = point;
        dots += text("<circle cx=\"", at.substr(0, at.find(',')), "\" cy=\"",
                     at.substr(at.find(',') + 1, at.size() - at.find(',') - 2), "\" r=\"2\" fill=\"",
                     colours[index % std::size(colours)], "\"/>");
        ++count;
    }
    return text("<polyline fill=\"none\" stroke-width=\"1.6\" ", stroke(index), " points=\"", points, "\"/>",
                count <= 40 ? dots : "");
}

// The last finite value of a curve; NaN if there is none.
double last_finite(const std::vector<double>& values) {
    const auto found = std::find_if(values.rbegin(), values.rend(), [](double value) { return std::isfinite(value); });
    return found == values.rend() ? missing : *found;
}

// In place of a plot whose curves have at most one point each: the values as text. Empty if there is none.
std::string single_values(const std::string& title, const std::vector<Curve>& curves) {
    std::string values;
    for (const Curve& curve : curves)
        if (const double value = last_finite(curve.y); std::isfinite(value))
            values += text(values.empty() ? "" : ", ", escape_html(curve.name), " ", short_number(value));
    return values.empty() ? "" : text("<p>", escape_html(title), ": ", values, "</p>\n");
}

bool is_line(const Curve& curve) {
    return std::count_if(curve.y.begin(), curve.y.end(), [](double value) { return std::isfinite(value); }) > 1;
}

// Leaves out the points at which no curve has a value: most of those of a column that only evaluations fill.
void drop_empty_points(std::vector<double>& x, std::vector<Curve>& curves) {
    size_t kept = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const auto has_value = [i](const Curve& curve) { return std::isfinite(curve.y[i]); };
        if (std::none_of(curves.begin(), curves.end(), has_value)) continue;
        for (Curve& curve : curves) curve.y[kept] = curve.y[i];
        x[kept++] = x[i];
    }
    for (Curve& curve : curves) curve.y.resize(kept);
    x.resize(kept);
}

}  // namespace

std::string plot(const std::string& title, const std::string& x_name, std::vector<double> x,
                 std::vector<Curve> curves) {
    if (std::none_of(curves.begin(), curves.end(), is_line)) return single_values(title, curves);
    drop_empty_points(x, curves);
    const size_t per = std::max<size_t>(1, (x.size() + max_points - 1) / max_points),
                 shown = std::min(max_curves, curves.size());
    const std::vector<double> thin_x = thinned(x, per);
    std::vector<std::vector<double>> lines;
    for (size_t c = 0; c < shown; ++c) lines.push_back(thinned(curves[c].y, per));
    const auto x_range = range_of({thin_x}), y_range = range_of(lines);
    if (!x_range || !y_range) return "";
    const Axis x_axis = make_axis(x_range->first, x_range->second, false),
               y_axis = make_axis(y_range->first, y_range->second, true);

    std::string svg = axes_svg(x_axis, y_axis, x_name), legend;
    for (size_t c = 0; c < shown; ++c) {
        svg += curve_svg(x_axis, y_axis, thin_x, lines[c], c);
        legend += text(
            "<span><svg class=\"key\" viewBox=\"0 0 24 8\"><line x1=\"0\" x2=\"24\" y1=\"4\" y2=\"4\" "
            "stroke-width=\"2.5\" ",
            stroke(c), "/></svg>", escape_html(curves[c].name), "</span> ");
    }
    if (shown < curves.size()) legend += text("<span>the first ", shown, " of ", curves.size(), "</span>");
    std::string note;
    if (per > 1) note += text(" (means of ", per, ")");
    if (y_axis.logarithmic) note += " (logarithmic)";
    return text("<figure class=\"plot\"><figcaption>", escape_html(title), note, "</figcaption><svg viewBox=\"0 0 ",
                plot_width, " ", plot_height, "\" role=\"img\" aria-label=\"", escape_html(title), "\">", svg,
                "</svg><div class=\"legend\">", legend, "</div></figure>\n");
}

// ---- sections -----------------------------------------------------------------------------------

namespace {

constexpr size_t max_rows = 40;         // longer text tables are only mentioned by name
constexpr size_t max_pictures = 40;     // of more, as in a folder of samples, only the count is shown
constexpr uint32_t wide_picture = 800;  // pixels; on a phone these scroll instead of shrinking

constexpr const char* style = R"(
:root{color-scheme:light}
body{margin:0 auto;max-width:70rem;padding:0 1rem 3rem;font:16px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff}
h1{font-size:1.6rem;margin:1.2rem 0 .3rem}h2{font-size:1.25rem;margin:2rem 0 .6rem;border-bottom:1px solid #ccc}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
.plots{display:grid;gap:1rem 1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
figure{margin:0 0 1rem;break-inside:avoid}.plot{max-width:34rem}
figcaption{font-size:.9rem;font-weight:600;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#333}
.grid{stroke:#ddd}.axis{stroke:#333}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .9rem;font-size:.85rem}
.legend .key{display:inline-block;width:24px;height:8px;margin-right:.35rem}
img{max-width:100%;height:auto;display:block;image-rendering:pixelated;margin-top:.3rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f5f5f5;padding:.6rem .8rem;font-size:.82rem;line-height:1.4}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;margin:.3rem 0 1rem}
th,td{text-align:left;padding:.15rem .7rem .15rem 0;border-bottom:1px solid #e4e4e4;vertical-align:top}
td.number{text-align:right;font-variant-numeric:tabular-nums}
.settings{columns:18rem;column-gap:2rem}
.settings div{break-inside:avoid;border-bottom:1px solid #e4e4e4;font-size:.88rem}
.settings div{display:flex;justify-content:space-between;gap:1rem}
.settings b{font-weight:400;overflow-wrap:anywhere;text-align:right}
@media screen and (max-width:40rem){.wide{overflow-x:auto}.wide img{max-width:none;width:56rem}}
@media print{body{max-width:none;font-size:10pt;padding:0}.plots{grid-template-columns:1fr 1fr}h2,h3{break-after:avoid}
pre{border:1px solid #ccc;break-inside:avoid}}
)";

// Bytes 16 to 19 of a PNG are its width.
bool is_wide(const std::string& png) {
    uint32_t width = 0;
    for (size_t i = 16; i < 20 && i < png.size(); ++i) width = width << 8 | uint8_t(png[i]);
    return width > wide_picture;
}

std::string image(const std::string& path, const std::string& caption) {
    const std::string png = read_file(path);
    return text("<figure><figcaption>", escape_html(caption), "</figcaption><div",
                is_wide(png) ? " class=\"wide\"" : "", "><img alt=\"", escape_html(caption),
                "\" src=\"data:image/png;base64,", base64(png), "\"></div></figure>\n");
}

// Four digits, and all before the point.
std::string table_number(double value) {
    return std::abs(value) >= 1e4 && std::abs(value) < 1e15 ? formatted("%.0f", value) : short_number(value);
}

std::string table_html(const CsvTable& table) {
    std::string out = "<div class=\"scroll\"><table><tr>";
    for (const std::string& name : table.header) out += "<th>" + escape_html(replace_underscores(name)) + "</th>";
    out += "</tr>";
    for (const auto& row : table.rows) {
        out += "<tr>";
        for (const std::string& cell : row) {
            const std::optional<double> value = cell.empty() ? std::nullopt : number(cell);
            if (!value) out += "<td>" + escape_html(cell) + "</td>";
            else out += "<td class=\"number\">" + table_number(*value) + "</td>";
        }
        out += "</tr>";
    }
    return out + "</table></div>\n";
}

// A numeric table becomes plots over its first column, one per quantity: mse_encoder and mse_noise share a plot named
// mse. Any other table is shown as a table unless it is too long.
struct CsvHtml {
    std::string plots, table;
};
CsvHtml csv_html(const std::string& path) {
    const std::string name = fs::path(path).filename().string();
    const CsvTable table = parse_csv(read_file(path));
    const std::vector<double> x = table.header.empty() ? std::vector<double>() : column(table, 0);
    std::vector<std::pair<std::string, std::vector<Curve>>> plots;
    bool numbers = x.size() >= 2 && table.header.size() >= 2;
    for (size_t c = 1; c < table.header.size() && numbers; ++c) {
        const std::string& whole = table.header[c];
        const size_t split = whole.find('_');
        const std::string quantity = whole.substr(0, split),
                          rest = split == std::string::npos ? whole : whole.substr(split + 1);
        auto found = std::find_if(plots.begin(), plots.end(), [&](const auto& p) { return p.first == quantity; });
        if (found == plots.end()) found = plots.insert(plots.end(), {quantity, {}});
        found->second.push_back({replace_underscores(rest), column(table, c)});
        numbers = !found->second.back().y.empty();
    }
    if (!numbers) {
        if (table.rows.size() > max_rows)
            return {"", text("<p>", escape_html(name), ": a table of ", table.rows.size(), " rows</p>\n")};
        return {"", text("<h3>", escape_html(name), "</h3>", table_html(table))};
    }
    CsvHtml out;
    for (const auto& [quantity, curves] : plots)
        out.plots += plot(quantity + " (" + name + ")", table.header[0], x, curves);
    return out;
}

std::vector<std::string> files_in(const std::string& folder, const std::string& ending) {
    std::vector<std::string> out;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error))
        if (entry.is_regular_file(error) && entry.path().filename().string().ends_with(ending))
            out.push_back(entry.path().string());
    std::sort(out.begin(), out.end(), [](const std::string& a, const std::string& b) {
        return a.size() != b.size() ? a.size() < b.size() : a < b;  // iteration-1000000 after iteration-999999
    });
    return out;
}

std::string experiment_html(const std::string& folder) {
    std::string out = text("<h2>", escape_html(fs::path(folder).filename().string()), "</h2>\n");
    if (std::error_code error; fs::exists(folder + "/summary.txt", error))
        out += "<pre>" + escape_html(read_file(folder + "/summary.txt")) + "</pre>\n";
    const std::vector<std::string> pictures = files_in(folder, ".png");
    if (pictures.size() > max_pictures) out += text("<p>", pictures.size(), " pictures</p>\n");
    else
        for (const std::string& path : pictures) out += image(path, fs::path(path).filename().string());
    std::string plots, tables;
    for (const std::string& path : files_in(folder, ".csv")) {
        const CsvHtml html = csv_html(path);
        plots += html.plots;
        tables += html.table;
    }
    return out + (plots.empty() ? "" : "<div class=\"plots\">" + plots + "</div>\n") + tables;
}

// The folders of experiments: this program's own in the order of the paper, then others.
std::vector<std::string> experiments_in(const std::string& run) {
    std::vector<std::string> names{"reconstruct", "revise", "interpolate", "ood", "longrun", "ais"}, others;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(run, error)) {
        const std::string name = entry.path().filename().string();
        const bool known =
            name == "samples" || name == "checkpoints" || std::find(names.begin(), names.end(), name) != names.end();
        if (!known && entry.is_directory(error)) others.push_back(name);
    }
    std::sort(others.begin(), others.end());
    names.insert(names.end(), others.begin(), others.end());
    std::vector<std::string> out;
    for (const std::string& name : names) {
        const std::string folder = run + "/" + name;
        if (!files_in(folder, ".csv").empty() || !files_in(folder, ".png").empty()) out.push_back(folder);
    }
    return out;
}

// The columns of metrics.csv by name; missing ones are empty.
class MetricsColumns {
public:
    explicit MetricsColumns(const MetricsTable& table) {
        for (size_t c = 0; c < table.header.size(); ++c)
            columns_[table.header[c]] = column({table.header, table.rows}, c);
    }
    const std::vector<double>& operator[](const std::string& name) const {
        static const std::vector<double> none;
        const auto found = columns_.find(name);
        return found == columns_.end() ? none : found->second;
    }
    std::string plot(const std::string& title, const std::vector<std::pair<std::string, std::string>>& curves) const {
        std::vector<Curve> found;
        for (const auto& [name, label] : curves)
            if ((*this)[name].size() == (*this)["iteration"].size()) found.push_back({label, (*this)[name]});
        return dualmcmc::plot(title, "iteration", (*this)["iteration"], found);
    }
    // The last finite value of a column, and the mean of its last 50 values.
    double last(const std::string& name) const { return last_finite((*this)[name]); }
    double mean_of_last(const std::string& name) const {
        const std::vector<double>& values = (*this)[name];
        double sum = 0, count = 0;
        for (size_t i = values.size() - std::min<size_t>(50, values.size()); i < values.size(); ++i)
            if (std::isfinite(values[i])) sum += values[i], ++count;
        return count > 0 ? sum / count : missing;
    }

private:
    std::map<std::string, std::vector<double>> columns_;
};

// The parts of an iteration as shares of its time.
std::string time_shares(const MetricsColumns& metrics) {
    const std::pair<const char*, const char*> parts[] = {{"seconds_chain_x", "x-chain"},
                                                         {"seconds_chain_z", "z-chain"},
                                                         {"seconds_generator", "generator"},
                                                         {"seconds_encoder", "encoder"},
                                                         {"seconds_ebm", "EBM"}};
    const std::vector<double>& iterations = metrics["iteration"];
    std::vector<Curve> curves;
    std::vector<double> sums(iterations.size(), 0.0);
    for (const auto& [name, label] : parts) {
        if (metrics[name].size() != iterations.size()) return "";
        curves.push_back({label, metrics[name]});
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += metrics[name][i];
    }
    for (Curve& curve : curves)
        for (size_t i = 0; i < sums.size(); ++i) curve.y[i] *= 100 / sums[i];
    return plot("share of an iteration's time, %", "iteration", iterations, curves);
}

std::string curves_html(const MetricsColumns& metrics, const std::string& temperature) {
    if (metrics["iteration"].empty()) return "<p>No iterations yet.</p>\n";
    return "<div class=\"plots\">" + metrics.plot("reconstruction MSE per pixel", {{"mse", "after the z-chain"}}) +
           metrics.plot("energies" + temperature,
                        {{"energy_data", "data"}, {"energy_model", "samples of the x-chain"}}) +
           metrics.plot("energy gap, samples minus data" + temperature, {{"energy_gap", "gap"}}) +
           metrics.plot("statistics distance to the data",
                        {{"distance_generator", "generator"}, {"distance_revised", "EBM-revised"}}) +
           metrics.plot("generator loss on revised samples (Eq. 10)", {{"loss_revise", "squared error per image"}}) +
           metrics.plot("encoder losses (Eq. 15)",
                        {{"nll_posterior", "revised latents of data"}, {"nll_prior", "latents of generated samples"}}) +
           time_shares(metrics) + metrics.plot("seconds per iteration", {{"seconds", "total"}}) + "</div>\n";
}

std::string headline(const MetricsColumns& metrics, const std::string& temperature) {
    if (metrics["iteration"].empty()) return "";
    std::string out = text("<p>", int64_t(metrics.last("iteration")), " iterations; means of the last ",
                           std::min<size_t>(50, metrics["iteration"].size()), ": reconstruction MSE ",
                           short_number(metrics.mean_of_last("mse")), " per pixel, energy gap ",
                           short_number(metrics.mean_of_last("energy_gap")), temperature);
    if (std::isfinite(metrics.last("distance_generator")))
        out += text("; statistics distance ", short_number(metrics.last("distance_generator")), " generator, ",
                    short_number(metrics.last("distance_revised")), " EBM-revised");
    return out + ".</p>\n";
}

std::string newest_pictures(const std::string& run) {
    std::string out;
    const std::pair<const char*, const char*> kinds[] = {
        {"-samples.png", "data; samples g(z) of the generator; the same revised by the EBM"},
        {"-reconstructions.png", "data; g(z) with z from the encoder; g(z) after the z-chain"}};
    for (const auto& [ending, caption] : kinds)
        if (const auto files = files_in(run + "/samples", ending); !files.empty())
            out += image(files.back(), text(fs::path(files.back()).filename().string(), ": ", caption));
    return out.empty() ? out : "<h2>Newest pictures</h2>\n" + out;
}

void write_page(const std::string& folder, const std::string& title, const std::string& body) {
    write_file(folder + "/report.html",
               text("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>",
                    escape_html(title), "</title><style>", style, "</style></head><body>\n<h1>", escape_html(title),
                    "</h1>\n", body, "</body></html>\n"));
}

}  // namespace

void write_report(const std::string& run) {
    const std::string name = fs::path(run + "/").lexically_normal().parent_path().filename().string();
    std::error_code error;
    if (!fs::is_regular_file(run + "/config.txt", error)) {
        if (!fs::is_regular_file(run + "/summary.txt", error))
            fail(run, ": not a run's folder: it has no config.txt; give the --out of a training");
        return write_page(run, "dualmcmc: " + name, experiment_html(run));
    }
    const auto settings = read_config(run + "/config.txt");
    Config config;
    for (const auto& [setting, value] : settings) set_setting(config, setting, value);
    const std::string temperature = text(" (temperature ", config.step.chain_x.temperature(), ")"),
                      title = text("dualmcmc: ", name, ", preset ", config.preset);
    const MetricsColumns metrics(
        parse_metrics(fs::exists(run + "/metrics.csv", error) ? read_file(run + "/metrics.csv") : ""));

    std::string page = headline(metrics, temperature) + "<h2>Training</h2>\n" + curves_html(metrics, temperature) +
                       newest_pictures(run);
    for (const std::string& folder : experiments_in(run)) page += experiment_html(folder);
    page += "<h2>Configuration</h2>\n<div class=\"settings\">";
    for (const auto& [setting, value] : settings)
        page += text("<div><span>", escape_html(setting), "</span><b>", escape_html(value), "</b></div>");
    write_page(run, title, page + "</div>\n");
}

ReportCommand::ReportCommand(CLI::App& app)
    : command_(app.add_subcommand("report", "write report.html, a page with everything in a run's folder")) {
    command_->add_option("folder", folder_, "the run's folder")->required();
}

int ReportCommand::run() {
    write_report(folder_);
    std::printf("%s/report.html\n", folder_.c_str());
    return 0;
}

}  // namespace dualmcmc

// Numbers from text: the same rules for the command line, config.txt, .csv files and the metadata of files.
#pragma once
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <type_traits>

namespace dualmcmc {

// Reads `text` as a whole into `value`: a finite decimal number that fits the type. Otherwise leaves `value` as it is
// and returns the reason, for a message; empty if all is well.
template <class Number>
std::string read_number(const std::string& text, Number& value) {
    constexpr bool whole = std::is_integral_v<Number>;
    const char *const end = text.data() + text.size(), *begin = text.data();
    if (text.size() > 1 && begin[0] == '+' && begin[1] != '-') ++begin;
    Number number{};
    const auto [stop, error] = std::from_chars(begin, end, number);
    if (text.empty()) return whole ? "is empty; give a whole number" : "is empty; give a number";
    if (stop != end || error == std::errc::invalid_argument)
        return whole ? "expected a whole number" : "expected a number";
    if (error == std::errc::result_out_of_range)
        return whole || std::abs(std::strtod(begin, nullptr)) > 1 ? "the number is too large"
                                                                  : "the number is too close to 0";
    if constexpr (!whole)
        if (!std::isfinite(number)) return "expected a finite number";
    value = number;
    return "";
}

// The number that `text` is as a whole, if it is one.
template <class Number>
std::optional<Number> to_number(const std::string& text) {
    Number value{};
    return read_number(text, value).empty() ? std::optional(value) : std::nullopt;
}

}  // namespace dualmcmc

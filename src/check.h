// Two kinds of errors, both thrown as std::runtime_error and caught once, in main:
//
// - CHECK, CHECK_EQ, ...: a broken contract between parts of this program. The message has file:line, the
//   expression and both values.
// - fail(...): a mistake in the user's input. The message is one plain line that says what to do.
//
// Whatever else is thrown, by the standard library or the system, explain() puts into words.
#pragma once
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>

namespace dualmcmc {

// Concatenates its arguments, formatted by operator<<.
template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

// A number by a format of printf's, such as "%.3g".
std::string formatted(const char* format, double value);

// `text` as one line that no terminal takes for a command: control characters, characters that change the direction of
// text, and bytes that are not UTF-8 become \xNN, \n or \t. Escaping twice changes nothing more.
std::string escaped(const std::string& text);

// The same of a text that a file holds, cut to a length that a message can quote.
std::string excerpt(const std::string& text);

// Throws std::runtime_error; the message, one line, is the concatenated arguments, escaped.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    throw std::runtime_error(escaped(text(parts...)));
}

// An exception as one line for the user, with what to do about it. It never quotes the standard library.
std::string explain(const std::exception& error);

}  // namespace dualmcmc

#define CHECK(condition)                                                                                 \
    do {                                                                                                 \
        if (!(condition)) ::dualmcmc::fail(__FILE__, ":", __LINE__, ": CHECK(", #condition, ") failed"); \
    } while (0)

#define CHECK_COMPARE(a, op, b)                                                                                       \
    do {                                                                                                              \
        const auto& check_a = (a);                                                                                    \
        const auto& check_b = (b);                                                                                    \
        if (!(check_a op check_b))                                                                                    \
            ::dualmcmc::fail(__FILE__, ":", __LINE__, ": ", #a, " ", #op, " ", #b, " failed: ", check_a, " against ", \
                             check_b);                                                                                \
    } while (0)
#define CHECK_EQ(a, b) CHECK_COMPARE(a, ==, b)
#define CHECK_GE(a, b) CHECK_COMPARE(a, >=, b)
#define CHECK_GT(a, b) CHECK_COMPARE(a, >, b)
#define CHECK_LE(a, b) CHECK_COMPARE(a, <=, b)

// Two kinds of errors, both thrown as std::runtime_error and caught once, in main:
//
// - CHECK, CHECK_EQ, ...: a broken contract between parts of this program. The message has file:line, the
//   expression and both values.
// - fail(...): a mistake in the user's input. The message is one plain line that says what to do.
#pragma once
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

// Throws std::runtime_error; the message, one line, is the concatenated arguments.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    throw std::runtime_error(text(parts...));
}

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

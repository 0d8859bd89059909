// Errors, in two kinds, both std::runtime_error so that main catches once.
//
// CHECK, CHECK_EQ, ...  a contract between pieces of this program; the message names file:line, the expression and both
// values. fail(...)             a mistake in what the user gave; the message is one plain line that says what to do.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace dualmcmc {

// Joins its arguments with operator<<.
template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

// Throws std::runtime_error with the joined arguments as its one-line message.
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

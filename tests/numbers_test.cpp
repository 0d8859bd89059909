// Numbers from text, text made safe to print, exceptions in words.
#include "numbers.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <new>

#include "check.h"

namespace dualmcmc {
namespace {

TEST(Numbers, AreDecimalAndWhole) {
    EXPECT_EQ(to_number<int64_t>("9223372036854775807"), std::numeric_limits<int64_t>::max());
    EXPECT_EQ(to_number<int64_t>("-9223372036854775808"), std::numeric_limits<int64_t>::min());
    EXPECT_EQ(to_number<int64_t>("010"), 10);
    EXPECT_EQ(to_number<int64_t>("+4"), 4);
    EXPECT_EQ(to_number<double>("1e-05"), 1e-05);
    EXPECT_EQ(to_number<double>("-.5"), -0.5);
    for (const char* text :
         {"", "+", "-", "+-4", "--4", "++4", " 4", "4 ", "0x10", "4.0", "1e3", "four", "4\n", "9223372036854775808"})
        EXPECT_FALSE(to_number<int64_t>(text)) << text;
    EXPECT_FALSE(to_number<int>("4294967297"));
    for (const char* text : {"", "+", "nan", "inf", "-inf", "0x1p3", "1,5", "1.5 ", " 1.5", "1e999", "1e-999"})
        EXPECT_FALSE(to_number<double>(text)) << text;
    EXPECT_FALSE(to_number<float>("1e39"));
    EXPECT_FALSE(to_number<float>("1e-46"));
    EXPECT_FALSE(to_number<double>(std::string("1\0", 2)));
    double value = 7;
    EXPECT_EQ(read_number("1e999", value), "the number is too large");
    EXPECT_EQ(read_number("-1e999", value), "the number is too large");
    EXPECT_EQ(read_number("1e-999", value), "the number is too close to 0");
    EXPECT_EQ(value, 7) << "a refused text leaves the value as it is";
}

TEST(Escaped, IsOneHarmlessLine) {
    const std::string plain = "größer – ‖x‖ 😀 \\n 'a'";
    EXPECT_EQ(escaped(plain), plain);
    EXPECT_EQ(escaped("a\nb\tc\r\x1b[2J\x7f"), "a\\nb\\tc\\x0d\\x1b[2J\\x7f");
    EXPECT_EQ(escaped(std::string("\0", 1)), "\\x00");
    EXPECT_EQ(escaped("\xc2\x9b"), "\\xc2\\x9b") << "a control character of Latin-1";
    EXPECT_EQ(escaped("\xe2\x80\xae"), "\\xe2\\x80\\xae") << "from right to left";
    EXPECT_EQ(escaped("\xc0\xaf \xed\xa0\x80 \xf5\x80\x80\x80 \xe2\x82"),
              "\\xc0\\xaf \\xed\\xa0\\x80 \\xf5\\x80\\x80\\x80 \\xe2\\x82");
    EXPECT_EQ(escaped(escaped("\x1b\n\xff")), escaped("\x1b\n\xff"));
    EXPECT_LT(excerpt(std::string(100000, 'x')).size(), 200u);
    EXPECT_EQ(excerpt(std::string(119, 'x') + "ü" + "y"), std::string(119, 'x') + "…");
}

TEST(Exceptions, AreExplained) {
    EXPECT_NE(explain(std::bad_alloc()).find("out of memory"), std::string::npos);
    EXPECT_NE(explain(std::length_error("vector::_M_default_append")).find("out of memory"), std::string::npos);
    const std::error_code denied = std::make_error_code(std::errc::permission_denied);
    EXPECT_EQ(explain(std::filesystem::filesystem_error("status", "some/file", denied)),
              "cannot access some/file: Permission denied");
    EXPECT_EQ(explain(std::system_error(denied, "cannot read some/file")),
              "the system refused a request: cannot read some/file: Permission denied");
    EXPECT_EQ(explain(std::runtime_error("a line")), "a line");
    for (const std::string& text : {explain(std::out_of_range("map::at")), explain(std::invalid_argument("stod")),
                                    explain(std::bad_optional_access())})
        EXPECT_NE(text.find("please report"), std::string::npos) << text;
}

}  // namespace
}  // namespace dualmcmc

// What long commands share: Ctrl-C that only raises a flag, and times for people.
#pragma once
#include <signal.h>

#include <string>

namespace dualmcmc {

// While one lives, SIGINT and SIGTERM only raise a flag; a second Ctrl-C ends the program at once.
class SignalGuard {
public:
    SignalGuard();
    ~SignalGuard();
    SignalGuard(const SignalGuard&) = delete;
    SignalGuard& operator=(const SignalGuard&) = delete;
    bool interrupted() const;

private:
    struct sigaction before_int_, before_term_;
};

// "1h05m" or "3m07s".
std::string duration(double seconds);

}  // namespace dualmcmc

// For long commands: Ctrl-C that only sets a flag, and readable durations.
#pragma once
#include <signal.h>

#include <string>

namespace dualmcmc {

// In its scope SIGINT and SIGTERM only set a flag. The same signal again ends the program at once.
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

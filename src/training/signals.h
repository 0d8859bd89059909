// What ends the program from outside: Ctrl-C (SIGINT), a batch system or `kill` (SIGTERM), a closed terminal (SIGHUP),
// and the end of the program that reads its output (SIGPIPE). A long command finishes what it is doing and saves it;
// any other is ended at once, with one line.
#pragma once
#include <signal.h>

namespace dualmcmc {

// For the whole program, once: SIGINT, SIGTERM and SIGHUP print a line and end it, as the signal by itself would.
// SIGHUP stays ignored where it is (nohup).
void handle_signals();

// In its scope these signals, and SIGPIPE, only set a flag. The same SIGINT or SIGTERM again ends the program at once.
// (A closing terminal may send SIGHUP several times.)
class SignalGuard {
public:
    SignalGuard();
    ~SignalGuard();
    SignalGuard(const SignalGuard&) = delete;
    SignalGuard& operator=(const SignalGuard&) = delete;
    bool interrupted() const;

private:
    struct sigaction before_pipe_;
};

// The exit code of a command that a SignalGuard stopped: 128 + the signal's number, as shells have it. On a rank that
// another one's signal stopped, SIGINT's.
int exit_code_of_interrupt();

}  // namespace dualmcmc

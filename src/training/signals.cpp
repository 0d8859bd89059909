// One handler for all; it uses only what is allowed in a handler.
#include "training/signals.h"

#include <unistd.h>

#include <string_view>

#include "ranks/ranks.h"

namespace dualmcmc {

namespace {

volatile sig_atomic_t guarded = 0;   // a SignalGuard exists
volatile sig_atomic_t received = 0;  // the signal that it has seen, or 0
volatile sig_atomic_t seen[NSIG] = {};

// Ends the program by the signal itself, so that a shell or a batch system sees why.
void end_by(int number) {
    constexpr std::string_view line = "\ndualmcmc: interrupted\n";
    // mpirun itself says that it was interrupted, and ends the ranks by a signal when one has failed, too.
    if (number != SIGPIPE && process_count() == 1) [[maybe_unused]]
        const auto written = write(STDERR_FILENO, line.data(), line.size());
    signal(number, SIG_DFL);
    raise(number);
}

void on_signal(int number) {
    const bool again = seen[number];
    seen[number] = 1;
    if (!guarded || (again && (number == SIGINT || number == SIGTERM))) return end_by(number);
    if (!received) received = number;
}

void install(int number, struct sigaction* before = nullptr) {
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(number, &action, before);
}

}  // namespace

void handle_signals() {
    install(SIGINT);
    install(SIGTERM);
    struct sigaction hangup;
    sigaction(SIGHUP, nullptr, &hangup);
    if (hangup.sa_handler != SIG_IGN) install(SIGHUP);
}

SignalGuard::SignalGuard() {
    received = 0;
    for (volatile sig_atomic_t& number : seen) number = 0;
    install(SIGPIPE, &before_pipe_);
    guarded = 1;
}

SignalGuard::~SignalGuard() {
    guarded = 0;
    sigaction(SIGPIPE, &before_pipe_, nullptr);
}

bool SignalGuard::interrupted() const { return received; }

int exit_code_of_interrupt() { return 128 + (received ? received : SIGINT); }

}  // namespace dualmcmc

// Signal handlers and text.
#include "training/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace dualmcmc {

namespace {
volatile sig_atomic_t raised = 0;
void on_signal(int) { raised = 1; }
}  // namespace

SignalGuard::SignalGuard() {
    raised = 0;
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = int(SA_RESETHAND);
    sigaction(SIGINT, &action, &before_int_);
    sigaction(SIGTERM, &action, &before_term_);
}

SignalGuard::~SignalGuard() {
    sigaction(SIGINT, &before_int_, nullptr);
    sigaction(SIGTERM, &before_term_, nullptr);
}

bool SignalGuard::interrupted() const { return raised; }

std::string duration(double seconds) {
    const long long whole = std::llround(std::max(0.0, seconds));
    char text[32];
    if (whole >= 3600) std::snprintf(text, sizeof text, "%lldh%02lldm", whole / 3600, whole / 60 % 60);
    else std::snprintf(text, sizeof text, "%lldm%02llds", whole / 60, whole % 60);
    return text;
}

}  // namespace dualmcmc

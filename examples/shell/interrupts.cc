#include "examples/shell/interrupts.h"

#include <signal.h>

#include <atomic>

namespace shell {

namespace {

std::atomic<skv_session*> active_session{nullptr};
std::atomic<bool> pressed{false};
static_assert(std::atomic<skv_session*>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

void on_interrupt(int) {
  pressed.store(true);
  // A session may have no call in progress just now; the loops look at the flag too.
  if (skv_session* session = active_session.load()) skv_session_interrupt(session);
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: the line editor must come back from read()
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return pressed.load(); }
void clear_interrupt() { pressed.store(false); }

InterruptScope::InterruptScope(skv_session* session) { active_session.store(session); }
InterruptScope::~InterruptScope() { active_session.store(nullptr); }

}  // namespace shell

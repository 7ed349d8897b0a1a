#include "examples/shell/interrupts.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace shell {

namespace {

std::atomic<skv_session*> active_session{nullptr};
std::atomic<bool> pressed{false};
// Whichever thread the signal reaches, and whether before or in poll(): a byte in this pipe wakes the reader.
int wake[2] = {-1, -1};
static_assert(std::atomic<skv_session*>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

void on_interrupt(int) {
  pressed.store(true);
  const int saved = errno;
  // A session may have no call in progress just now; the loops look at the flag too.
  if (skv_session* session = active_session.load()) skv_session_interrupt(session);
  // A full pipe wakes as well.
  if (write(wake[1], "", 1) < 0) errno = saved;
}

}  // namespace

void install_interrupt_handler() {
  if (pipe2(wake, O_NONBLOCK | O_CLOEXEC) != 0) return;  // Ctrl-C ends the program then
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read of piped commands comes back too
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return pressed.load(); }

void clear_interrupt() {
  char bytes[64];
  while (read(wake[0], bytes, sizeof bytes) > 0) {
  }
  pressed.store(false);
}

bool wait_for_input(int fd) {
  pollfd sources[2] = {{fd, POLLIN, 0}, {wake[0], POLLIN, 0}};
  while (!interrupted()) {
    if (poll(sources, 2, -1) < 0 && errno != EINTR) return true;  // read() will tell what is wrong
    if (sources[0].revents != 0 && !interrupted()) return true;
  }
  return false;
}

InterruptScope::InterruptScope(skv_session* session) { active_session.store(session); }
InterruptScope::~InterruptScope() { active_session.store(nullptr); }

}  // namespace shell

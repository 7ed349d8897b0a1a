// Ctrl-C stops what the library is doing, not the program.
#pragma once

#include "shadowkv/shadowkv.h"

namespace shell {

void install_interrupt_handler();
bool interrupted();
void clear_interrupt();
// Blocks until input or Ctrl-C; false after Ctrl-C, also if that came before the call.
bool wait_for_input(int fd);

// While it lives, Ctrl-C interrupts this session.
class InterruptScope {
 public:
  explicit InterruptScope(skv_session* session);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
};

}  // namespace shell

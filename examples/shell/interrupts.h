// Ctrl-C stops what the library is doing, not the program.
#pragma once

#include "shadowkv/shadowkv.h"

namespace shell {

// Also makes a blocked read of the terminal return.
void install_interrupt_handler();
bool interrupted();
void clear_interrupt();

// While it lives, Ctrl-C interrupts this session.
class InterruptScope {
 public:
  explicit InterruptScope(skv_session* session);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
};

}  // namespace shell

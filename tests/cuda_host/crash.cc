// A crash inside a kernel says which thread of which block it was.
#include "tests/cuda_host/crash.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/cuda_host/block.h"

namespace skv::cuda_host {

namespace {

constexpr std::size_t kHandlerStack = 256 << 10;

#if defined(__x86_64__)
const void* crashed_at(void* context) {
  return reinterpret_cast<const void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] + 1);
}
#else
const void* crashed_at(void*) { return nullptr; }
#endif

// The process ends here, so what a handler must not call is called all the same.
void handler(int number, siginfo_t* info, void* context) {
  signal(number, SIG_DFL);
  if (running != nullptr && running->current() != nullptr) {
    char address[64];
    std::snprintf(address, sizeof address, "at address %p", info->si_addr);
    found("crashes", crashed_at(context), address);
    std::fprintf(stderr, "%s", take_findings().c_str());
  }
  raise(number);
}

struct HandlerStack {
  HandlerStack() {
    stack_t stack{};
    stack.ss_sp = memory = std::malloc(kHandlerStack);
    stack.ss_size = kHandlerStack;
    sigaltstack(&stack, nullptr);
  }
  ~HandlerStack() {
    stack_t stack{};
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, nullptr);
    std::free(memory);
  }
  void* memory = nullptr;
};

}  // namespace

void name_crashes() {
#if !defined(__SANITIZE_ADDRESS__)
  static thread_local HandlerStack stack;
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE}) {
      struct sigaction before {};
      if (sigaction(number, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) continue;
      sigaction(number, &action, nullptr);
    }
    return true;
  }();
  (void)installed;
  (void)stack;
#else
  (void)handler;
#endif
}

}  // namespace skv::cuda_host

// shadowkv: the library's demo shell. Uses the public header only.
#include <clocale>
#include <cstdio>
#include <exception>

#include "examples/shell/batch_mode.h"
#include "examples/shell/demo_report.h"
#include "examples/shell/demo_text.h"
#include "examples/shell/interactive_mode.h"
#include "examples/shell/interrupts.h"
#include "examples/shell/shell_api.h"
#include "examples/shell/shell_options.h"

namespace {

int run(const shell::Options& options) {
  switch (options.mode) {
    case shell::Mode::demo_text: return shell::write_demo_text(options.demo_text);
    case shell::Mode::demo_report: return shell::print_demo_report(options.runs);
    case shell::Mode::batch: return shell::run_batch(options.settings, options.job);
    default: return shell::run_interactive(options.settings, options.job.prompt_file, options.job.progress);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setlocale(LC_CTYPE, "");  // for the line editor
  try {
    shell::Options options;
    if (const auto status = shell::parse_options(argc, argv, &options)) return *status;
    shell::install_interrupt_handler();
    return run(options);
  } catch (const shell::Failure& failure) {
    std::fflush(stdout);
    std::fprintf(stderr, "shadowkv: %s (status %d)\n", failure.what(), failure.status());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "shadowkv: %s\n", error.what());
  }
  return 1;
}

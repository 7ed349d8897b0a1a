#include "examples/shell/progress_bar.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace shell {

namespace {

constexpr int kWidth = 40;
constexpr auto kInterval = std::chrono::milliseconds(100);

}  // namespace

ProgressBar::ProgressBar(bool visible, int64_t tokens) : visible_(visible), tokens_(tokens), start_(Clock::now()) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputc('\n', stderr);
}

void ProgressBar::update(int64_t done, int64_t total) {
  const auto now = Clock::now();
  if (!visible_ || total <= 0 || (done < total && now - last_ < kInterval)) return;
  last_ = now;
  drawn_ = true;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  const double tokens = share * static_cast<double>(tokens_);
  const double seconds = std::max(1e-3, std::chrono::duration<double>(now - start_).count());
  const auto filled = static_cast<std::size_t>(share * kWidth);
  std::string bar(filled, '=');
  if (filled < kWidth) bar += '>';
  bar.resize(kWidth, ' ');
  std::fprintf(stderr, "\rreading [%s] %3.0f %%  %.0f tokens, %.0f/s ", bar.c_str(), 100 * share, tokens,
               tokens / seconds);
  std::fflush(stderr);
}

}  // namespace shell

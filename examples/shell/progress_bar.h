// A one-line bar on stderr: "reading [=======>      ]  52 %  17,040 tokens, 8,512/s".
#pragma once

#include <chrono>
#include <cstdint>

namespace shell {

class ProgressBar {
 public:
  // tokens: of the text, for the rate. Prints nothing if not visible.
  ProgressBar(bool visible, int64_t tokens);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(int64_t done, int64_t total);

 private:
  using Clock = std::chrono::steady_clock;

  bool visible_;
  bool drawn_ = false;
  int64_t tokens_;
  Clock::time_point start_;
  Clock::time_point last_{};
};

}  // namespace shell

// The rows of one step: a copy in this version's layout, and the way back at the caller's stride.
#pragma once

#include <span>
#include <vector>

#include "lib/engine/error_detail.h"
#include "shadowkv/session.h"

namespace skv::api {

class StepRows {
 public:
  // Throws Error(SKV_E_INVALID / SKV_E_STRUCT); nothing is written to the caller's rows then, for they are not known.
  StepRows(skv_row* theirs, int32_t n, uint32_t stride);

  std::span<skv_row> rows() { return ours_; }
  // Outputs to the caller.
  void write_back() noexcept;
  // The same, with the call's failure in every row that has no status of its own yet.
  void give_up(const engine::Failure& failure) noexcept;

 private:
  char* theirs_;
  uint32_t stride_;
  std::vector<skv_row> ours_;
};

// Runs fn when the scope is left, however that happens.
template <class Fn>
class Finally {
 public:
  explicit Finally(Fn fn) : fn_(fn) {}
  ~Finally() { fn_(); }
  Finally(const Finally&) = delete;
  Finally& operator=(const Finally&) = delete;

 private:
  Fn fn_;
};

}  // namespace skv::api

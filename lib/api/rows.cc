#include "lib/api/rows.h"

#include <cstddef>
#include <cstring>

#include "lib/api/struct_io.h"

namespace skv::api {

namespace {

constexpr int32_t kMaxRows = 64;
constexpr skv_status kNoStatus = 1;  // no code is positive

}  // namespace

StepRows::StepRows(skv_row* theirs, int32_t n, uint32_t stride)
    : theirs_(reinterpret_cast<char*>(theirs)), stride_(stride) {
  if (n < 0 || n > kMaxRows) fail(SKV_E_INVALID, "n_rows is %d; 0 to %d are allowed", n, kMaxRows);
  if (n == 0) return;
  ours_ = read_array(theirs, n, stride, "rows");
  for (skv_row& row : ours_) {
    check_reserved(row.reserved, "row.reserved");
    row.status = kNoStatus;
    row.sampled_token = -1;
  }
}

void StepRows::write_back() noexcept {
  for (std::size_t i = 0; i < ours_.size(); ++i) {
    char* row = theirs_ + i * stride_;
    std::memcpy(row + offsetof(skv_row, sampled_token), &ours_[i].sampled_token, sizeof ours_[i].sampled_token);
    std::memcpy(row + offsetof(skv_row, status), &ours_[i].status, sizeof ours_[i].status);
  }
}

void StepRows::give_up(const engine::Failure& failure) noexcept {
  for (skv_row& row : ours_) {
    if (row.status != kNoStatus) continue;
    row.status = failure.status;
    engine::fill_error(failure, row.err);
  }
  write_back();
}

}  // namespace skv::api

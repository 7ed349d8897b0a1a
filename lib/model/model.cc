#include "lib/model/model.h"

#include "kernels/rope/rope_tables.h"
#include "lib/base/file.h"
#include "lib/base/status.h"
#include "lib/model/resident.h"
#include "lib/model/rope_frequencies.h"

namespace skv::model {

Model::Model(const std::string& directory, bool metadata_only, MemoryAccount& account)
    : config_(read_config(directory)), chat_(detect_chat_format(directory)) {
  if (file_exists(directory + "/tokenizer.json")) tokenizer_ = std::make_unique<Tokenizer>(directory, config_.vocab);
  // Weights check the configuration against the files, so they come before anything is sized by it.
  if (!metadata_only) weights_ = std::make_unique<Weights>(directory, config_, account);

  const std::vector<double> inv_freq = rope_inverse_frequencies(config_.rope);
  const auto pairs = static_cast<int64_t>(inv_freq.size());
  const int32_t hi_rows = kernels::rope_hi_rows(config_.max_positions);
  const int64_t lo_floats = kernels::rope_lo_floats(pairs);
  rope_tables_ = TaggedArray<float>(account, SKV_TIER_HOST, SKV_PURPOSE_OTHER,
                                    lo_floats + kernels::rope_hi_floats(pairs, hi_rows));
  kernels::rope_fill_tables(inv_freq, hi_rows, rope_tables_.data(), rope_tables_.data() + lo_floats);
  rope_.lo = rope_tables_.data();
  rope_.hi = rope_tables_.data() + lo_floats;
  rope_.hi_rows = hi_rows;
  rope_.rotary_dim = config_.rope.rotary_dim;
  rope_.interleaved = config_.rope.interleaved;
}

Model::~Model() = default;

std::shared_ptr<const Resident> Model::resident(MemoryAccount& account, const kernels::Ops& ops) const {
  const std::lock_guard lock(copies_mutex_);
  for (const Copies& copies : copies_) {
    if (copies.account != &account) continue;
    if (auto resident = copies.resident.lock()) return resident;
  }
  auto resident = std::make_shared<const Resident>(*this, account, ops);
  ops.wait();
  if (ops.failure()[0] != '\0') fail(SKV_E_DEVICE_LOST, "weights to the device: %s", ops.failure());
  std::erase_if(copies_, [](const Copies& copies) { return copies.resident.expired(); });
  copies_.push_back({&account, resident});
  return resident;
}

}  // namespace skv::model

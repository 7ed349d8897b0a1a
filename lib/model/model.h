// One opened model directory: config, tokenizer, rotary tables and, unless opened for its metadata only, weights.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "lib/base/memory.h"
#include "lib/model/chat.h"
#include "lib/model/config.h"
#include "lib/model/tokenizer.h"
#include "lib/model/weights.h"

namespace skv::model {

class Resident;  // resident.h

class Model {
 public:
  Model(const std::string& directory, bool metadata_only, MemoryAccount& account);
  ~Model();

  const Config& config() const { return config_; }
  // nullptr if the directory has no tokenizer.json (token-id hosts), or opened without weights respectively.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  const Weights* weights() const { return weights_.get(); }
  const ChatFormat& chat() const { return chat_; }
  const kernels::RopeView& rope() const { return rope_; }  // covers max_positions; in host memory

  // Copies for the ops of one device, shared by all who ask for the same account; made where there is none yet.
  // Thread-safe. Throws Error(SKV_E_BUDGET / SKV_E_NOMEM / SKV_E_DEVICE_LOST).
  std::shared_ptr<const Resident> resident(MemoryAccount& account, const kernels::Ops& ops) const;

 private:
  struct Copies {
    const MemoryAccount* account;
    std::weak_ptr<const Resident> resident;
  };

  Config config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Weights> weights_;
  ChatFormat chat_;
  TaggedArray<float> rope_tables_;
  kernels::RopeView rope_;
  mutable std::mutex copies_mutex_;
  mutable std::vector<Copies> copies_;
};

}  // namespace skv::model

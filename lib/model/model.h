// One opened model directory: config, tokenizer, rotary tables and, unless opened for its metadata only, weights.
#pragma once

#include <memory>
#include <string>

#include "kernels/common/rope_view.h"
#include "lib/base/memory.h"
#include "lib/model/chat.h"
#include "lib/model/config.h"
#include "lib/model/tokenizer.h"
#include "lib/model/weights.h"

namespace skv::model {

class Model {
 public:
  Model(const std::string& directory, bool metadata_only, MemoryAccount& account);
  ~Model();

  const Config& config() const { return config_; }
  // nullptr if the directory has no tokenizer.json (token-id hosts), or opened without weights respectively.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  const Weights* weights() const { return weights_.get(); }
  const ChatFormat& chat() const { return chat_; }
  const kernels::RopeView& rope() const { return rope_; }  // covers max_positions

 private:
  Config config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Weights> weights_;
  ChatFormat chat_;
  TaggedArray<float> rope_tables_;
  kernels::RopeView rope_;
};

}  // namespace skv::model

#include <gtest/gtest.h>

#include <functional>

#include "lib/model/safetensors.h"
#include "lib/model/weights.h"
#include "tests/model/fixture.h"

namespace skv::model {
namespace {

using nlohmann::json;
using test::fixture_path;
using test::ScratchModel;
using test::status_of;

std::string with_header(const std::string& header, const std::string& data) {
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>((header.size() >> (8 * i)) & 0xff));
  return out + header + data;
}

// Takes a file apart, lets `change` edit header and data, and puts it together again.
void rewrite(const ScratchModel& model, const std::string& file,
             const std::function<void(json&, std::string&)>& change,
             std::size_t pad = 0) {
  const std::string raw = model.read(file);
  std::size_t length = 0;
  std::memcpy(&length, raw.data(), sizeof length);
  json header = json::parse(raw.substr(8, length));
  std::string data = raw.substr(8 + length);
  change(header, data);
  model.write(file, with_header(header.dump() + std::string(pad, ' '), data));
}

skv_status open(const ScratchModel& model, std::string* message = nullptr) {
  MemoryAccount account;
  return status_of([&] { Weights w(model.directory(), read_config(model.directory()), account); }, message);
}

constexpr char kFile[] = "model.safetensors";
constexpr char kQ[] = "model.layers.0.self_attn.q_proj.weight";
constexpr char kNorm[] = "model.layers.1.post_attention_layernorm.weight";

TEST(Weights, OpensEveryFixtureAndGivesBackWhatItCharged) {
  MemoryAccount account;
  for (const char* name : test::kCheckpoints) {
    const Config config = read_config(fixture_path(name));
    const Weights w(fixture_path(name), config, account);
    EXPECT_EQ(w.table().embedding.rows, config.vocab);
    EXPECT_EQ(w.table().lm_head.data == w.table().embedding.data, config.tied_embeddings) << name;
    EXPECT_EQ(w.table().layers.back().down.rows, config.hidden);
    EXPECT_EQ(w.table().layers[0].q_bias != nullptr, config.attention_bias);
    EXPECT_EQ(w.table().layers[0].down_bias != nullptr, config.mlp_bias);
    EXPECT_GT(w.mapped_bytes(), 100000);
    EXPECT_GT(account.used(SKV_TIER_HOST, SKV_PURPOSE_WEIGHTS), 0);
  }
  EXPECT_EQ(account.used(SKV_TIER_HOST), 0);
}

TEST(Weights, ElementTypesMayDifferWithinAFile) {
  MemoryAccount account;
  const Config config = read_config(fixture_path("mha_mixed_dtypes"));
  const SafetensorsSet files(fixture_path("mha_mixed_dtypes"));
  ASSERT_EQ(files.get(kNorm).dtype, "F32");
  ASSERT_EQ(files.get(kQ).dtype, "BF16");
  const Weights w(fixture_path("mha_mixed_dtypes"), config, account);
  const auto* norm = reinterpret_cast<const float*>(files.get(kNorm).data);
  for (int32_t i = 0; i < config.hidden; ++i) EXPECT_EQ(w.table().layers[static_cast<std::size_t>(1)].post_attn_norm[i], norm[i]);
}

TEST(Weights, MisalignedTensorsAreCopiedAlignedOnesMapped) {
  ScratchModel model("gqa_llama3_rope");
  const Config config = read_config(model.directory());
  MemoryAccount plain_account, odd_account;
  const Weights plain(fixture_path("gqa_llama3_rope"), config, plain_account);
  const std::string raw = model.read(kFile);
  // An odd header length moves every tensor to an odd address.
  rewrite(model, kFile, [](json&, std::string&) {}, 0);
  const bool odd = (model.read(kFile).size() - raw.size()) % 2 != 0;
  rewrite(model, kFile, [](json&, std::string&) {}, odd ? 0 : 1);
  const Weights moved(model.directory(), config, odd_account);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(moved.table().layers[static_cast<std::size_t>(0)].q.data) % 2, 0u);
  EXPECT_EQ(std::memcmp(moved.table().layers[static_cast<std::size_t>(1)].down.data, plain.table().layers[static_cast<std::size_t>(1)].down.data,
                        static_cast<std::size_t>(config.hidden) * config.intermediate * 2), 0);
  EXPECT_EQ(std::memcmp(moved.table().layers[static_cast<std::size_t>(1)].input_norm, plain.table().layers[static_cast<std::size_t>(1)].input_norm, sizeof(float) * config.hidden), 0);
  EXPECT_GT(odd_account.used(SKV_TIER_HOST), plain_account.used(SKV_TIER_HOST) + 60000);
}

struct BadTensor {
  const char* what;
  skv_status status;
  const char* named;  // in the message
  std::function<void(json&, std::string&)> change;
};

TEST(Weights, RefusesDamagedHeadersAndNamesTheTensor) {
  const int64_t huge = int64_t{1} << 62;
  const BadTensor cases[] = {
      {"missing matrix", SKV_E_DATA, kQ, [](json& h, std::string&) { h.erase(kQ); }},
      {"missing norm", SKV_E_DATA, kNorm, [](json& h, std::string&) { h.erase(kNorm); }},
      {"missing head", SKV_E_DATA, "lm_head", [](json& h, std::string&) { h.erase("lm_head.weight"); }},
      {"transposed", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ]["shape"] = {64, 128}; }},
      {"flat", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ]["shape"] = {8192}; }},
      {"norm too short", SKV_E_DATA, kNorm, [](json& h, std::string&) { h[kNorm] = h["model.norm.weight"];
                                                                        h[kNorm]["shape"] = {2, 32}; }},
      {"shape longer than bytes", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ]["shape"] = {128, 65}; }},
      {"product overflows", SKV_E_DATA, kQ, [=](json& h, std::string&) { h[kQ]["shape"] = {huge, huge, 4}; }},
      {"product wraps to the right bytes", SKV_E_DATA, kQ,
       [=](json& h, std::string&) { h[kQ]["shape"] = {huge + 8192, 4, 1}; }},
      {"negative dimension", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ]["shape"] = {-128, -64}; }},
      {"fractional dimension", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ]["shape"] = {128.0, 64.0}; }},
      {"too many dimensions", SKV_E_DATA, kQ,
       [](json& h, std::string&) { h[kQ]["shape"] = {128, 64, 1, 1, 1, 1, 1, 1, 1, 1}; }},
      {"offsets swapped", SKV_E_DATA, kQ, [](json& h, std::string&) { std::swap(h[kQ]["data_offsets"][0],
                                                                                h[kQ]["data_offsets"][1]); }},
      {"offsets past the end", SKV_E_DATA, kQ,
       [](json& h, std::string& d) { h[kQ]["data_offsets"] = {d.size(), d.size() + 16384}; }},
      {"offsets near 2^64", SKV_E_DATA, kQ,
       [](json& h, std::string&) { h[kQ]["data_offsets"] = {18446744073709551600u, 18446744073709551615u}; }},
      {"offsets near 2^63", SKV_E_DATA, kQ,
       [](json& h, std::string&) { h[kQ]["data_offsets"] = {9223372036854759423, 9223372036854775807}; }},
      {"one offset", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ]["data_offsets"] = {0}; }},
      {"no offsets", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ].erase("data_offsets"); }},
      {"no dtype", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ].erase("dtype"); }},
      {"entry is a number", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ] = 3; }},
      {"integer weights", SKV_E_MODEL, kQ, [](json& h, std::string&) { h[kQ]["dtype"] = "I16"; }},
      {"unheard-of type", SKV_E_MODEL, kQ, [](json& h, std::string&) { h[kQ]["dtype"] = "Q4_K"; }},
      {"wrong width", SKV_E_DATA, kQ, [](json& h, std::string&) { h[kQ]["dtype"] = "F32"; }},
      {"cut short", SKV_E_DATA, "cut short", [](json&, std::string& d) { d.resize(d.size() / 2); }},
      {"not an object", SKV_E_DATA, "model.safetensors", [](json& h, std::string&) { h = json::array(); }},
      {"deep", SKV_E_DATA, "deep", [](json& h, std::string&) { for (int i = 0; i < 50; ++i) h = json{{"x", h}}; }},
  };
  for (const BadTensor& bad : cases) {
    ScratchModel model("gqa_llama3_rope");
    rewrite(model, kFile, bad.change);
    std::string message;
    EXPECT_EQ(open(model, &message), bad.status) << bad.what << ": " << message;
    EXPECT_NE(message.find(bad.named), std::string::npos) << bad.what << ": " << message;
  }
}

TEST(Weights, UnusedTensorsOfAnyTypeAreIgnored) {
  ScratchModel model("gqa_llama3_rope");
  rewrite(model, kFile, [](json& h, std::string&) {
    h["rotary_emb.inv_freq"] = {{"dtype", "I8"}, {"shape", {4}}, {"data_offsets", {0, 4}}};
    h["other"] = {{"dtype", "NEW"}, {"shape", {3}}, {"data_offsets", {0, 1}}};
  });
  EXPECT_EQ(open(model), SKV_OK);
}

TEST(Weights, RefusesBrokenFiles) {
  ScratchModel model("gqa_llama3_rope");
  const std::string good = model.read(kFile);
  std::string bomb = good;
  bomb[6] = '\x7f';  // a header of 2^54 bytes
  std::string inside = good;
  inside[2] = '\x08';  // within the limit, past the end of the file
  const std::string bad[] = {"", "abc", std::string(8, '\0'), bomb, inside, good.substr(0, 100), with_header("{", ""),
                             with_header(std::string(1 << 20, '['), ""), std::string(8, '\xff')};
  for (const std::string& bytes : bad) {
    model.write(kFile, bytes);
    std::string message;
    EXPECT_EQ(open(model, &message), SKV_E_DATA) << bytes.size() << ": " << message;
  }
  model.remove(kFile);
  EXPECT_EQ(open(model), SKV_E_IO);
}

TEST(Weights, RefusesBrokenIndexes) {
  constexpr char kIndex[] = "model.safetensors.index.json";
  const std::pair<skv_status, std::function<void(json&)>> cases[] = {
      {SKV_E_DATA, [](json& i) { i.erase("weight_map"); }},
      {SKV_E_DATA, [](json& i) { i["weight_map"] = 3; }},
      {SKV_E_DATA, [](json& i) { i["weight_map"] = json::object(); }},
      {SKV_E_DATA, [](json& i) { i["weight_map"].erase(kQ); }},
      {SKV_E_DATA, [](json& i) { i["weight_map"][kQ] = 1; }},
      {SKV_E_DATA, [](json& i) { i["weight_map"][kQ] = "../" + std::string(kFile); }},
      {SKV_E_DATA, [](json& i) { i["weight_map"][kQ] = "/etc/passwd"; }},
      {SKV_E_DATA, [](json& i) { i["weight_map"][kQ] = i["weight_map"]["lm_head.weight"] == i["weight_map"][kQ]
                                                           ? i["weight_map"]["model.norm.weight"]
                                                           : i["weight_map"]["lm_head.weight"]; }},
      {SKV_E_IO, [](json& i) { i["weight_map"][kQ] = "model-00009-of-00005.safetensors"; }},
  };
  int number = 0;
  for (const auto& [status, change] : cases) {
    ScratchModel model("sharded_bf16");
    model.edit(kIndex, change);
    std::string message;
    EXPECT_EQ(open(model, &message), status) << number << ": " << message;
    ++number;
  }
  ScratchModel model("sharded_bf16");
  model.write("model-00002-of-00005.safetensors", "short");
  EXPECT_EQ(open(model), SKV_E_DATA);
}

TEST(Weights, ShapesFollowTheConfigAndABudgetHolds) {
  ScratchModel model("gqa_llama3_rope");
  model.edit("config.json", [](json& c) { c["num_hidden_layers"] = 3; });
  std::string message;
  EXPECT_EQ(open(model, &message), SKV_E_DATA);
  EXPECT_NE(message.find("model.layers.2."), std::string::npos) << message;
  MemoryAccount account;
  account.set_limit(SKV_TIER_HOST, 100);
  const Config config = read_config(fixture_path("biases_f16"));
  EXPECT_EQ(status_of([&] { Weights w(fixture_path("biases_f16"), config, account); }), SKV_E_BUDGET);
  EXPECT_EQ(account.used(SKV_TIER_HOST), 0);
}

}  // namespace
}  // namespace skv::model

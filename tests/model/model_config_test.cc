#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "lib/model/config.h"
#include "lib/model/rope_frequencies.h"
#include "tests/model/fixture.h"

namespace skv::model {
namespace {

using nlohmann::json;
using test::fixture_path;
using test::ScratchModel;
using test::status_of;

TEST(Config, ReadsNewAndOldSpellingsOfRope) {
  const Config newer = read_config(fixture_path("gqa_llama3_rope"));
  EXPECT_EQ(newer.rope.scaling, RopeScaling::llama3);
  EXPECT_EQ(newer.rope.theta, 500000.0);
  EXPECT_EQ(newer.rope.factor, 8.0);
  EXPECT_EQ(newer.rope.original_max_positions, 64);
  EXPECT_EQ(newer.head_dim, 32);
  EXPECT_EQ(newer.rope.rotary_dim, 32);
  const Config older = read_config(fixture_path("mqa_tied_linear_rope"));
  EXPECT_EQ(older.rope.scaling, RopeScaling::linear);
  EXPECT_EQ(older.rope.factor, 2.0);
  EXPECT_TRUE(older.tied_embeddings);
  EXPECT_EQ(older.kv_heads, 1);
  EXPECT_EQ(read_config(fixture_path("sharded_bf16")).rope.theta, 1000000.0);
}

TEST(Config, BothSpellingsMeanTheSame) {
  ScratchModel model("gqa_llama3_rope");
  const Config newer = read_config(model.directory());
  model.edit("config.json", [](json& c) {
    json rope = c["rope_parameters"];
    c.erase("rope_parameters");
    c["rope_theta"] = rope["rope_theta"];
    rope.erase("rope_theta");
    c["rope_scaling"] = rope;
  });
  const Config older = read_config(model.directory());
  EXPECT_EQ(rope_inverse_frequencies(newer.rope), rope_inverse_frequencies(older.rope));
}

TEST(Config, GenerationConfigOverridesEndTokens) {
  ScratchModel model("sharded_bf16");
  EXPECT_EQ(read_config(model.directory()).end_ids, (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(read_config(model.directory()).bos_id, 1);
  model.write("generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_EQ(read_config(model.directory()).end_ids, std::vector<int32_t>{7});
  model.write("generation_config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(read_config(model.directory()).end_ids, std::vector<int32_t>{2});
  model.remove("generation_config.json");
  model.edit("config.json", [](json& c) {
    c["eos_token_id"] = {9, 8, 9};
    c["bos_token_id"] = nullptr;
  });
  EXPECT_EQ(read_config(model.directory()).end_ids, (std::vector<int32_t>{9, 8}));
  EXPECT_EQ(read_config(model.directory()).bos_id, -1);
}

TEST(Config, FieldsThatOlderFilesLeaveOutHaveTheirDefaults) {
  ScratchModel model("mha_mixed_dtypes");
  model.edit("config.json", [](json& c) {
    for (const char* key : {"head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling",
                            "hidden_act",
                            "tie_word_embeddings", "attention_bias", "mlp_bias", "max_position_embeddings"})
      c.erase(key);
  });
  const Config c = read_config(model.directory());
  EXPECT_EQ(c.head_dim, 32);
  EXPECT_EQ(c.kv_heads, c.q_heads);
  EXPECT_FLOAT_EQ(c.rms_eps, 1e-6f);
  EXPECT_EQ(c.rope.theta, 10000.0);
  EXPECT_EQ(c.max_positions, 2048);
  EXPECT_FALSE(c.tied_embeddings || c.attention_bias || c.mlp_bias);
}

TEST(Config, Llama3ScalingKeepsShortWavesStretchesLongOnes) {
  RopeConfig rope;
  rope.theta = 500000.0;
  rope.rotary_dim = 128;
  const std::vector<double> plain = rope_inverse_frequencies(rope);
  rope.scaling = RopeScaling::llama3;
  rope.factor = 8.0;
  rope.original_max_positions = 8192;
  const std::vector<double> scaled = rope_inverse_frequencies(rope);
  ASSERT_EQ(plain.size(), 64u);
  EXPECT_EQ(plain[0], 1.0);
  EXPECT_EQ(scaled[0], plain[0]);
  EXPECT_DOUBLE_EQ(scaled[63], plain[63] / 8);
  int blended = 0;
  for (std::size_t i = 0; i < 64; ++i) {
    EXPECT_LE(scaled[i], plain[i] * (1 + 1e-15));
    EXPECT_GE(scaled[i], plain[i] / 8 * (1 - 1e-15));
    if (i > 0) {
      EXPECT_LT(scaled[i], scaled[i - 1]);
    }
    if (scaled[i] < plain[i] * 0.999 && scaled[i] > plain[i] / 8 * 1.001) ++blended;
  }
  EXPECT_GT(blended, 2);
}

struct BadConfig {
  const char* field;  // that the message must name
  std::function<void(json&)> change;
};

TEST(Config, RefusesWhatItCannotRunAndNamesTheField) {
  const BadConfig cases[] = {
      {"architectures", [](json& c) { c["architectures"] = {"GPT2LMHeadModel"}; }},
      {"architectures", [](json& c) { c.erase("architectures"); }},
      {"architectures", [](json& c) { c["architectures"] = {1}; }},
      {"num_hidden_layers", [](json& c) { c["num_hidden_layers"] = 0; }},
      {"num_hidden_layers", [](json& c) { c["num_hidden_layers"] = 1000000; }},
      {"hidden_size", [](json& c) { c["hidden_size"] = -64; }},
      {"hidden_size", [](json& c) { c["hidden_size"] = "64"; }},
      {"hidden_size", [](json& c) { c["hidden_size"] = 64.5; }},
      {"intermediate_size", [](json& c) { c["intermediate_size"] = 9223372036854775807; }},
      {"intermediate_size", [](json& c) { c["intermediate_size"] = 18446744073709551615u; }},
      {"num_attention_heads", [](json& c) { c.erase("num_attention_heads"); }},
      {"num_key_value_heads", [](json& c) { c["num_key_value_heads"] = 3; }},
      {"num_key_value_heads", [](json& c) { c["num_key_value_heads"] = 8; }},
      {"head_dim", [](json& c) { c["head_dim"] = 33; }},
      {"head_dim", [](json& c) { c["head_dim"] = 512; }},
      {"num_attention_heads", [](json& c) { c["head_dim"] = nullptr; c["num_attention_heads"] = 6; }},
      {"vocab_size", [](json& c) { c["vocab_size"] = 0; }},
      {"max_position_embeddings", [](json& c) { c["max_position_embeddings"] = 1e18; }},
      {"rms_norm_eps", [](json& c) { c["rms_norm_eps"] = 0; }},
      {"rms_norm_eps", [](json& c) { c["rms_norm_eps"] = -1e-5; }},
      {"hidden_act", [](json& c) { c["hidden_act"] = "gelu"; }},
      {"attention_bias", [](json& c) { c["attention_bias"] = 1; }},
      {"rope_theta", [](json& c) { c["rope_parameters"]["rope_theta"] = 0; }},
      {"rope_type", [](json& c) { c["rope_parameters"]["rope_type"] = "yarn"; }},
      {"factor", [](json& c) { c["rope_parameters"]["factor"] = 0.5; }},
      {"high_freq_factor", [](json& c) { c["rope_parameters"]["high_freq_factor"] = 1.0; }},
      {"original_max_position_embeddings",
       [](json& c) { c["rope_parameters"].erase("original_max_position_embeddings"); }},
      {"rope_scaling", [](json& c) { c.erase("rope_parameters"); c["rope_scaling"] = "linear"; }},
      {"partial_rotary_factor", [](json& c) { c["partial_rotary_factor"] = 0.5; }},
      {"sliding_window", [](json& c) { c["sliding_window"] = 4096; }},
      {"layer_types", [](json& c) { c["layer_types"] = {"full_attention", "sliding_attention"}; }},
      {"quantization_config", [](json& c) { c["quantization_config"] = {{"bits", 4}}; }},
      {"eos_token_id", [](json& c) { c["eos_token_id"] = 256; }},
      {"eos_token_id", [](json& c) { c["eos_token_id"] = {1, -1}; }},
      {"bos_token_id", [](json& c) { c["bos_token_id"] = 1.5; }},
  };
  for (const BadConfig& bad : cases) {
    ScratchModel model("gqa_llama3_rope");
    model.remove("generation_config.json");
    model.edit("config.json", bad.change);
    std::string message;
    EXPECT_EQ(status_of([&] { read_config(model.directory()); }, &message),
              SKV_E_MODEL) << bad.field << ": " << message;
    EXPECT_NE(message.find(bad.field), std::string::npos) << message;
  }
}

TEST(Config, AcceptsSlidingWindowThatIsSwitchedOff) {
  ScratchModel model("gqa_llama3_rope");
  model.edit("config.json", [](json& c) { c["sliding_window"] = 4096, c["use_sliding_window"] = false; });
  EXPECT_EQ(read_config(model.directory()).layers, 2);
}

TEST(Config, DamagedFilesAreDataErrors) {
  ScratchModel model("gqa_llama3_rope");
  const std::string good = model.read("config.json");
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  const std::string bad[] = {with("1e-05", "NaN"), with("500000.0", "Infinity"), with("500000.0", "1e999"),
                             good.substr(0, good.size() / 2), "", "[]", "\xff\xfe{}",
                             std::string(100000, '[') + std::string(100000, ']')};
  for (const std::string& text : bad) {
    model.write("config.json", text);
    EXPECT_EQ(status_of([&] { read_config(model.directory()); }), SKV_E_DATA) << text.substr(0, 60);
  }
  model.write("config.json", good);
  model.write("generation_config.json", "{\"eos_token_id\": ");
  EXPECT_EQ(status_of([&] { read_config(model.directory()); }), SKV_E_DATA);
  EXPECT_EQ(status_of([&] { read_config(model.directory() + "/nowhere"); }), SKV_E_IO);
}

}  // namespace
}  // namespace skv::model

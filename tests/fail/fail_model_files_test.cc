// Damaged, contradictory and missing model files through the public door: a status, a message, no handle.
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "fail_fixture.h"

namespace failing {

class ModelFiles : public ::testing::Test {
 protected:
  void SetUp() override { runtime = make_runtime(); }
  void TearDown() override { skv_runtime_destroy(runtime); }

  std::string file(const char* name) const { return directory.path + "/" + name; }
  std::string read(const char* name) const {
    std::ifstream in(file(name), std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  void write(const char* name, const std::string& text) const {
    std::ofstream(file(name), std::ios::binary) << text;
  }
  void replace(const char* name, const std::string& from, const std::string& to) const {
    std::string text = read(name);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    write(name, text.replace(at, from.size(), to));
  }
  skv_status open(const char* mentions = "") const {
    skv_model* model = reinterpret_cast<skv_model*>(uintptr_t{1});
    skv_error err = make_error();
    const skv_status status = skv_model_open(runtime, directory.path.c_str(), nullptr, &model, &err);
    EXPECT_EQ(model == nullptr, status != SKV_OK);
    if (status != SKV_OK) {
      EXPECT_EQ(err.status, status);
      EXPECT_NE(std::strstr(err.message, mentions), nullptr) << err.message;
    }
    skv_model_destroy(model);
    return status;
  }

  ModelDirectory directory;
  skv_runtime* runtime = nullptr;
};

TEST_F(ModelFiles, sound_directory_opens) { EXPECT_EQ(open(), SKV_OK); }

TEST_F(ModelFiles, missing_files) {
  skv_model* model = nullptr;
  skv_error err = make_error();
  EXPECT_EQ(skv_model_open(runtime, "/nonexistent/model", nullptr, &model, &err), SKV_E_IO);
  EXPECT_EQ(model, nullptr);
  EXPECT_EQ(err.native_code, ENOENT);
  EXPECT_EQ(skv_model_open(runtime, "", nullptr, &model, nullptr), SKV_E_IO);
  unlink(file("model.safetensors").c_str());
  EXPECT_EQ(open("model.safetensors"), SKV_E_IO);
}

TEST_F(ModelFiles, without_tokenizer_text_is_unsupported_and_ids_work) {
  unlink(file("tokenizer.json").c_str());
  skv_model* model = nullptr;
  skv_session* session = nullptr;
  auto info = sized<skv_model_info>();
  int64_t n = 0;
  const int32_t id = 3;
  ASSERT_EQ(skv_model_open(runtime, directory.path.c_str(), nullptr, &model, nullptr), SKV_OK);
  EXPECT_EQ(skv_model_get_info(model, &info, nullptr), SKV_OK);
  EXPECT_EQ(info.has_tokenizer, 0);
  EXPECT_EQ(skv_model_tokenize(model, "a", 1, 0, nullptr, 0, &n, nullptr), SKV_E_UNSUPPORTED);
  EXPECT_EQ(skv_model_detokenize(model, &id, 1, 0, nullptr, 0, &n, nullptr), SKV_E_UNSUPPORTED);
  EXPECT_EQ(skv_session_create(model, nullptr, &session, nullptr), SKV_OK);
  skv_session_destroy(session);
  skv_model_destroy(model);
}

TEST_F(ModelFiles, chat_needs_a_known_format) {
  skv_model* model = nullptr;
  int64_t n = 0;
  const skv_chat_message message = {"user", "hello", 5};
  ASSERT_EQ(skv_model_open(runtime, directory.path.c_str(), nullptr, &model, nullptr), SKV_OK);
  EXPECT_EQ(skv_model_tokenize_chat(model, &message, 1, sizeof message, 1, nullptr, 0, &n, nullptr), SKV_E_UNSUPPORTED);
  EXPECT_EQ(skv_model_tokenize_chat(model, &message, 0, sizeof message, 1, nullptr, 0, &n, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_tokenize_chat(model, nullptr, 1, sizeof message, 1, nullptr, 0, &n, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_tokenize_chat(model, &message, 1, 8, 1, nullptr, 0, &n, nullptr), SKV_E_STRUCT);
  skv_model_destroy(model);
}

TEST_F(ModelFiles, metadata_only_has_no_session) {
  skv_model_params params;
  skv_model* model = nullptr;
  skv_session* session = nullptr;
  auto budget = sized<skv_budget>();
  const int64_t length = 1000;
  ASSERT_EQ(skv_model_params_init(&params, sizeof params), SKV_OK);
  params.metadata_only = 2;
  EXPECT_EQ(skv_model_open(runtime, directory.path.c_str(), &params, &model, nullptr), SKV_E_INVALID);
  params.metadata_only = 1;
  unlink(file("model.safetensors").c_str());
  ASSERT_EQ(skv_model_open(runtime, directory.path.c_str(), &params, &model, nullptr), SKV_OK);
  EXPECT_EQ(skv_session_create(model, nullptr, &session, nullptr), SKV_E_STATE);
  EXPECT_EQ(session, nullptr);
  EXPECT_EQ(skv_budget_query(model, nullptr, &length, 1, 0, &budget, nullptr), SKV_OK);
  EXPECT_EQ(budget.weight_bytes, 0);
  skv_model_destroy(model);
}

TEST_F(ModelFiles, config_that_is_not_json_or_not_runnable) {
  const std::string sound = read("config.json");
  for (const char* text : {"", "{", "[]", "null", "{\"a\":NaN}", "\xff\xfe"}) {
    write("config.json", text);
    const skv_status status = open("config.json");
    EXPECT_TRUE(status == SKV_E_DATA || status == SKV_E_MODEL) << text << ": " << status;
  }
  const auto refused = [&](const char* from, const char* to, const char* field) {
    write("config.json", sound);
    replace("config.json", from, to);
    EXPECT_EQ(open(field), SKV_E_MODEL) << to;
  };
  refused("LlamaForCausalLM", "UnknownForCausalLM", "architectures");
  refused("\"hidden_size\":64", "\"hidden_size\":-64", "hidden_size");
  refused("\"hidden_size\":64", "\"hidden_size\":\"64\"", "hidden_size");
  refused("\"num_key_value_heads\":2", "\"num_key_value_heads\":3", "num_key_value_heads");
  refused("\"num_hidden_layers\":2", "\"num_hidden_layers\":1e300", "num_hidden_layers");
  refused("\"rope_theta\":10000.0", "\"rope_theta\":0", "rope_theta");
  refused("\"vocab_size\":256", "\"vocab_size\":0", "vocab_size");
}

TEST_F(ModelFiles, weights_that_are_cut_or_lie) {
  const std::string sound = read("model.safetensors");
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{4}, std::size_t{8}, std::size_t{100}, sound.size() / 2,
                                  sound.size() - 1}) {
    write("model.safetensors", sound.substr(0, bytes));
    EXPECT_EQ(open("model.safetensors"), SKV_E_DATA) << bytes;
  }
  const auto refused = [&](const char* from, const char* to) {
    write("model.safetensors", sound);
    replace("model.safetensors", from, to);
    const skv_status status = open();
    EXPECT_TRUE(status == SKV_E_DATA || status == SKV_E_MODEL) << to << ": " << status;
  };
  refused("model.layers.1.mlp.up_proj", "model.layers.1.mlp.xx_proj");
  refused("\"shape\":[256,64]", "\"shape\":[64,256]");
  refused("\"dtype\":\"F32\"", "\"dtype\":\"I32\"");
  refused("\"data_offsets\":[0,", "\"data_offsets\":[9,");
  std::string huge = sound;
  std::memset(huge.data(), 0xff, 8);  // a header of 2^64 - 1 bytes
  write("model.safetensors", huge);
  EXPECT_EQ(open(), SKV_E_DATA);
}

TEST_F(ModelFiles, message_with_a_long_path_is_cut_between_characters) {
  std::string path = "/";
  for (int i = 0; i < 200; ++i) path += "\xc3\xa9";  // two bytes each
  for (int shift = 0; shift < 2; ++shift) {
    skv_model* model = nullptr;
    skv_error err = make_error();
    EXPECT_NE(skv_model_open(runtime, path.c_str(), nullptr, &model, &err), SKV_OK);
    const std::string message = err.message;
    ASSERT_LT(message.size(), sizeof err.message);
    EXPECT_EQ(message.find('\n'), std::string::npos);
    std::size_t lead = 0, trail = 0;
    for (const char c : message) {
      lead += c == '\xc3';
      trail += c == '\xa9';
    }
    EXPECT_GT(lead, 0u);
    EXPECT_EQ(lead, trail) << "half a character in: " << message;
    path.insert(1, "x");
  }
}

}  // namespace failing

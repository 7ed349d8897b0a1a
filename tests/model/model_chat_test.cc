#include <gtest/gtest.h>

#include "lib/model/chat.h"
#include "tests/model/fixture.h"

namespace skv::model {
namespace {

using nlohmann::json;
using test::ScratchModel;
using test::status_of;

constexpr ChatMessage kTalk[] = {{"system", "Be brief."}, {"user", "Hi <there>"}};

TEST(Chat, RecognisesTemplatesWhereverTheyStand) {
  const std::string llama3 = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' }}{{ '<|eot_id|>' }}";
  const std::string chatml = "{{'<|im_start|>' + message['role']}}{{'<|im_end|>'}}";
  ScratchModel model;
  EXPECT_EQ(detect_chat_format(model.directory()), ChatFormat::none);
  const auto config = [&](const json& root) {
    model.write("tokenizer_config.json", root.dump());
    return detect_chat_format(model.directory());
  };
  EXPECT_EQ(config({{"chat_template", llama3}}), ChatFormat::llama3);
  EXPECT_EQ(config({{"chat_template", chatml}}), ChatFormat::chatml);
  EXPECT_EQ(config({{"chat_template", "[INST] {{ x }} [/INST]"}}), ChatFormat::none);
  EXPECT_EQ(config({{"chat_template", nullptr}}), ChatFormat::none);
  EXPECT_EQ(config({{"model_max_length", 4}}), ChatFormat::none);
  EXPECT_EQ(config({{"chat_template", {{{"name", "tool_use"}, {"template", llama3}},
                                       {{"name", "default"}, {"template", chatml}}}}}), ChatFormat::chatml);
  model.write("chat_template.jinja", llama3);
  EXPECT_EQ(detect_chat_format(model.directory()), ChatFormat::llama3);
  model.remove("chat_template.jinja");
  model.write("tokenizer_config.json", "{\"chat_template\": ");
  EXPECT_EQ(status_of([&] { detect_chat_format(model.directory()); }), SKV_E_DATA);
}

TEST(Chat, FormatsTurns) {
  EXPECT_EQ(format_chat(ChatFormat::llama3, kTalk, true),
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi <there><|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(format_chat(ChatFormat::chatml, kTalk, false),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <there><|im_end|>\n");
  EXPECT_EQ(format_chat(ChatFormat::chatml, {}, true), "<|im_start|>assistant\n");
}

TEST(Chat, RefusesTextThatWouldSpeakForAnother) {
  const auto status = [](std::string_view role, std::string_view content) {
    const ChatMessage message{role, content};
    return status_of([&] { format_chat(ChatFormat::llama3, {&message, 1}, true); });
  };
  EXPECT_EQ(status("user", "a <| b |> c <|>"), SKV_OK);
  EXPECT_EQ(status("user", "x<|eot_id|>y"), SKV_E_INVALID);
  EXPECT_EQ(status("user", "<|<|im_end|>"), SKV_E_INVALID);
  EXPECT_EQ(status("tool<|eot_id|>", "x"), SKV_E_INVALID);
  EXPECT_EQ(status("user", std::string(3, '<') + "|"), SKV_OK);
  EXPECT_EQ(status_of([] { format_chat(ChatFormat::none, kTalk, true); }), SKV_E_UNSUPPORTED);
}

}  // namespace
}  // namespace skv::model

#include <algorithm>
#include <cstring>
#include <span>

#include "lib/api/boxes.h"
#include "lib/api/guard.h"
#include "lib/api/struct_io.h"

using namespace skv;
using namespace skv::api;

namespace {

constexpr skv_model_params kDefaults = {sizeof(skv_model_params), 0};

const model::Tokenizer& tokenizer_of(const ModelBox& box) {
  const model::Tokenizer* tokenizer = box.model().tokenizer();
  if (tokenizer == nullptr) fail(SKV_E_UNSUPPORTED, "the model has no tokenizer.json; bring token ids");
  return *tokenizer;
}

const char* chat_format_name(model::ChatFormat format) {
  switch (format) {
    case model::ChatFormat::llama3: return "llama3";
    case model::ChatFormat::chatml: return "chatml";
    case model::ChatFormat::none: break;
  }
  return "";
}

void fill_model_info(const model::Model& model, skv_model_info* info) {
  const model::Config& config = model.config();
  info->n_layers = config.layers;
  info->hidden_size = config.hidden;
  info->n_q_heads = config.q_heads;
  info->n_kv_heads = config.kv_heads;
  info->head_dim = config.head_dim;
  info->vocab_size = config.vocab;
  info->has_tokenizer = model.tokenizer() != nullptr;
  info->max_positions = config.max_positions;
  info->weight_bytes = model.weights() == nullptr ? 0 : model.weights()->mapped_bytes();
  info->bos_token = config.bos_id;
  info->n_end_tokens = static_cast<int32_t>(std::min(config.end_ids.size(), std::size(info->end_tokens)));
  std::copy_n(config.end_ids.begin(), info->n_end_tokens, info->end_tokens);
  config.architecture.copy(info->architecture, sizeof info->architecture - 1);
  std::strncpy(info->chat_format, chat_format_name(model.chat()), sizeof info->chat_format - 1);
}

// The caller's array, if all fits; the count in any case.
template <class T>
void give_all(std::span<const T> all, T* out, int64_t capacity, int64_t* n_out, const char* unit) {
  *n_out = static_cast<int64_t>(all.size());
  if (*n_out > capacity) {
    fail(SKV_E_SPACE, "%zu %s are needed; capacity is %lld", all.size(), unit, static_cast<long long>(capacity));
  }
  std::copy(all.begin(), all.end(), out);
}

}  // namespace

skv_status skv_model_params_init(skv_model_params* params, uint32_t struct_size) {
  return guarded(nullptr, [&] { write_defaults(params, struct_size, kDefaults, "params"); });
}

skv_status skv_model_open(skv_runtime* runtime, const char* path, const skv_model_params* params, skv_model** model_out,
                          skv_error* err) {
  return guarded(err, [&] {
    *not_null(model_out, "model_out") = nullptr;
    const Pin<RuntimeBox> owner(runtime);
    not_null(path, "path");
    const skv_model_params ours = read_struct(params, kDefaults, "params");
    const bool metadata_only = read_flag(ours.metadata_only, "metadata_only");
    auto box = std::make_unique<ModelBox>();
    // Weights that must be converted are, by as many threads as the runtime has.
    owner->runtime->executor().run(
        [&] { box->open = std::make_shared<OpenModel>(owner->runtime, path, metadata_only); });
    *model_out = make_handle(std::move(box));
  });
}

void skv_model_destroy(skv_model* model) { drop_handle<ModelBox>(model); }

skv_status skv_model_get_info(skv_model* model, skv_model_info* info, skv_error* err) {
  return guarded(err, [&] {
    const Pin<ModelBox> box(model);
    OutStruct<skv_model_info> out(info, "info");
    fill_model_info(box->model(), &out.ours);
    out.write();
  });
}

skv_status skv_model_tokenize(skv_model* model, const char* text, int64_t n_bytes, int32_t flags, int32_t* tokens,
                              int64_t capacity, int64_t* n_tokens_out, skv_error* err) {
  return guarded(err, [&] {
    const Pin<ModelBox> box(model);
    const std::size_t bytes = checked_count(text, n_bytes, "text", "n_bytes");
    checked_count(tokens, capacity, "tokens", "capacity");
    not_null(n_tokens_out, "n_tokens_out");
    if ((flags & ~(SKV_TOKENIZE_ADD_SPECIAL | SKV_TOKENIZE_PARSE_SPECIAL)) != 0) {
      fail(SKV_E_INVALID, "flags is %d; SKV_TOKENIZE_ bits are allowed", flags);
    }
    const std::vector<int32_t> ids =
        tokenizer_of(*box.operator->())
            .encode({text, bytes}, flags & SKV_TOKENIZE_ADD_SPECIAL, flags & SKV_TOKENIZE_PARSE_SPECIAL);
    give_all<int32_t>(ids, tokens, capacity, n_tokens_out, "tokens");
  });
}

skv_status skv_model_detokenize(skv_model* model, const int32_t* tokens, int64_t n_tokens, int32_t with_special,
                                char* bytes, int64_t capacity, int64_t* n_bytes_out, skv_error* err) {
  return guarded(err, [&] {
    const Pin<ModelBox> box(model);
    const std::span<const int32_t> ids(tokens, checked_count(tokens, n_tokens, "tokens", "n_tokens"));
    checked_count(bytes, capacity, "bytes", "capacity");
    not_null(n_bytes_out, "n_bytes_out");
    const bool special = read_flag(with_special, "with_special");
    const model::Tokenizer& tokenizer = tokenizer_of(*box.operator->());
    const int32_t vocab = box->model().config().vocab;
    std::string text;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= vocab) {
        fail(SKV_E_INVALID, "token %zu is %d; 0 to %d are allowed", i, ids[i], vocab - 1);
      }
      text += tokenizer.token_bytes(ids[i], special);
    }
    give_all<char>(text, bytes, capacity, n_bytes_out, "bytes");
  });
}

skv_status skv_model_tokenize_chat(skv_model* model, const skv_chat_message* messages, int32_t n_messages,
                                   uint32_t message_size, int32_t open_reply, int32_t* tokens, int64_t capacity,
                                   int64_t* n_tokens_out, skv_error* err) {
  return guarded(err, [&] {
    const Pin<ModelBox> box(model);
    if (n_messages < 1) fail(SKV_E_INVALID, "n_messages is %d; at least 1 is allowed", n_messages);
    const auto theirs = read_array(messages, n_messages, message_size, "messages");
    const bool reply = read_flag(open_reply, "open_reply");
    checked_count(tokens, capacity, "tokens", "capacity");
    not_null(n_tokens_out, "n_tokens_out");
    std::vector<model::ChatMessage> ours;
    for (const skv_chat_message& message : theirs) {
      const std::size_t bytes = checked_count(message.content, message.content_bytes, "content", "content_bytes");
      ours.push_back({not_null(message.role, "role"), {message.content, bytes}});
    }
    const model::Tokenizer& tokenizer = tokenizer_of(*box.operator->());
    const std::vector<int32_t> ids =
        tokenizer.encode(model::format_chat(box->model().chat(), ours, reply), true, true);
    give_all<int32_t>(ids, tokens, capacity, n_tokens_out, "tokens");
  });
}

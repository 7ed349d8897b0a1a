// Several turns on one sequence, a reply taken back and sampled again, from C++.
//   ./turns MODEL_DIR DOCUMENT QUESTION...
#include <shadowkv/shadowkv.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

template <class Call>
void check(Call call) {
  skv_error err = SKV_ERROR_INIT;
  if (call(&err) != SKV_OK) throw std::runtime_error(err.message);
}

template <class T>
using Handle = std::unique_ptr<T, void (*)(T *)>;

struct Conversation {
  skv_model *model;
  skv_session *session;
  skv_seq seq;

  void append(const std::string &text) {
    std::vector<int32_t> tokens(text.size() + 8);
    int64_t n = 0;
    check([&](skv_error *err) {
      return skv_model_tokenize(model, text.data(), static_cast<int64_t>(text.size()), 0, tokens.data(),
                                static_cast<int64_t>(tokens.size()), &n, err);
    });
    check([&](skv_error *err) { return skv_sequence_append(session, seq, tokens.data(), n, err); });
  }

  int64_t length() {
    int64_t n = 0;
    check([&](skv_error *err) { return skv_sequence_length(session, seq, &n, nullptr, err); });
    return n;
  }

  // The reply stays in the sequence, so that the next turn sees it.
  std::string reply(const skv_sampler_params &sampler, int n_new) {
    int32_t token = 0;
    check([&](skv_error *err) { return skv_session_prefill(session, nullptr, nullptr, err); });
    check([&](skv_error *err) { return skv_sequence_set_sampler(session, seq, &sampler, err); });
    check([&](skv_error *err) { return skv_sequence_sample(session, seq, &token, err); });
    std::string text;
    for (int i = 0; i < n_new; ++i) {
      char bytes[256];
      int64_t n = 0;
      check([&](skv_error *err) { return skv_model_detokenize(model, &token, 1, 0, bytes, sizeof bytes, &n, err); });
      text.append(bytes, static_cast<std::size_t>(n));
      skv_row row{};
      row.seq = seq, row.tokens = &token, row.n_tokens = 1, row.sample = 1;
      check([&](skv_error *err) {
        row.err = err;
        const skv_status status = skv_session_step(session, &row, 1, sizeof row, nullptr, nullptr, err);
        return status == SKV_OK ? row.status : status;
      });
      token = row.sampled_token;
    }
    return text;
  }
};

void run(int argc, char **argv) {
  skv_runtime *runtime = nullptr;
  check([&](skv_error *err) { return skv_runtime_create(nullptr, &runtime, err); });
  const Handle<skv_runtime> runtime_owner(runtime, skv_runtime_destroy);
  Conversation c{};
  check([&](skv_error *err) { return skv_model_open(runtime, argv[1], nullptr, &c.model, err); });
  const Handle<skv_model> model_owner(c.model, skv_model_destroy);
  check([&](skv_error *err) { return skv_session_create(c.model, nullptr, &c.session, err); });
  const Handle<skv_session> session_owner(c.session, skv_session_destroy);
  check([&](skv_error *err) { return skv_sequence_open(c.session, SKV_AUTO, &c.seq, err); });

  skv_sampler_params greedy, warm;
  skv_sampler_params_init(&greedy, sizeof greedy);
  warm = greedy;
  warm.temperature = 1.0f;
  warm.top_p = 0.95f;
  c.append(argv[2]);
  check([&](skv_error *err) { return skv_session_prefill(c.session, nullptr, nullptr, err); });
  for (int i = 3; i < argc; ++i) {
    const int64_t before = c.length();
    for (warm.seed = 1; warm.seed <= 2; ++warm.seed) {
      c.append(argv[i]);
      std::printf("%s%s  (seed %d)\n", argv[i], c.reply(warm, 6).c_str(), static_cast<int>(warm.seed));
      // Taken back: the conversation does not know of it.
      check([&](skv_error *err) { return skv_sequence_truncate(c.session, c.seq, before, err); });
    }
    c.append(argv[i]);
    std::printf("%s%s\n", argv[i], c.reply(greedy, 6).c_str());
  }
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 4) return std::fprintf(stderr, "usage: %s MODEL_DIR DOCUMENT QUESTION...\n", argv[0]), 2;
  try {
    run(argc, argv);
  } catch (const std::exception &error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
}

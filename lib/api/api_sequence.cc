#include <span>

#include "lib/api/boxes.h"
#include "lib/api/guard.h"
#include "lib/api/struct_io.h"

using namespace skv;
using namespace skv::api;

namespace {

constexpr skv_sampler_params kSamplerDefaults = {sizeof(skv_sampler_params), 0.0f, 0, 1.0f, 0.0f, 1.0f, 0};

}  // namespace

skv_status skv_sequence_open(skv_session* session, int64_t max_tokens, skv_seq* seq_out, skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    not_null(seq_out, "seq_out");
    *seq_out = call->open(max_tokens);
  });
}

skv_status skv_sequence_close(skv_session* session, skv_seq seq, skv_error* err) {
  return guarded(err, [&] { SessionCall(session)->close(seq); });
}

skv_status skv_sequence_append(skv_session* session, skv_seq seq, const int32_t* tokens, int64_t n_tokens,
                               skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    call->append(seq, {tokens, checked_count(tokens, n_tokens, "tokens", "n_tokens")});
  });
}

skv_status skv_sequence_cancel(skv_session* session, skv_seq seq, skv_error* err) {
  return guarded(err, [&] { SessionCall(session)->cancel(seq); });
}

skv_status skv_sequence_length(skv_session* session, skv_seq seq, int64_t* length_out, int64_t* queued_out,
                               skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    const int64_t length = call->length(seq), queued = call->queued(seq);
    if (length_out != nullptr) *length_out = length;
    if (queued_out != nullptr) *queued_out = queued;
  });
}

skv_status skv_sequence_truncate(skv_session* session, skv_seq seq, int64_t length, skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    call.runtime().executor().run([&] { call->truncate(seq, length); });
  });
}

skv_status skv_sampler_params_init(skv_sampler_params* params, uint32_t struct_size) {
  return guarded(nullptr, [&] { write_defaults(params, struct_size, kSamplerDefaults, "params"); });
}

skv_status skv_sequence_set_sampler(skv_session* session, skv_seq seq, const skv_sampler_params* params,
                                    skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    const skv_sampler_params p = read_struct(params, kSamplerDefaults, "params");
    call->set_sampler(seq, {p.temperature, p.top_k, p.top_p, p.min_p, p.repetition_penalty, p.seed});
  });
}

skv_status skv_sequence_sample(skv_session* session, skv_seq seq, int32_t* token_out, skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    not_null(token_out, "token_out");
    *token_out = call->sample(seq);
  });
}

skv_status skv_sequence_logits(skv_session* session, skv_seq seq, float* logits, int64_t capacity, skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    not_null(logits, "logits");
    call->copy_logits(seq, logits, capacity);
  });
}

skv_status skv_sequence_prefill_status(skv_session* session, skv_seq seq, skv_status* status_out, skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    not_null(status_out, "status_out");
    *status_out = call->prefill_status(seq, err);
  });
}

skv_status skv_sequence_stats(skv_session* session, skv_seq seq, skv_kv_stats* stats, skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    OutStruct<skv_kv_stats> out(stats, "stats");
    call->kv_stats(seq, &out.ours);
    out.write();
  });
}

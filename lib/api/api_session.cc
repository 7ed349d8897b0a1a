#include <algorithm>
#include <chrono>
#include <thread>

#include "lib/api/boxes.h"
#include "lib/api/guard.h"
#include "lib/api/rows.h"
#include "lib/api/struct_io.h"

using namespace skv;
using namespace skv::api;

namespace {

constexpr skv_step_params kStepDefaults = {sizeof(skv_step_params), 0, UINT64_MAX, UINT64_MAX};

skv_session_params default_params() {
  skv_session_params params = {sizeof(skv_session_params), 0, 64, 64, 512, 0, nullptr, {}};
  std::fill_n(params.limit_bytes, SKV_TIER_SLOTS, SKV_UNLIMITED);
  return params;
}

engine::StepAllowance read_allowance(const skv_step_params* theirs) {
  const skv_step_params params = read_struct(theirs, kStepDefaults, "params");
  check_reserved(params.reserved, "params.reserved");
  return {params.max_prefill_tokens, params.max_prefill_ns};
}

}  // namespace

engine::SessionConfig skv::api::read_session_config(const skv_session_params* theirs, const ModelBox& model) {
  const skv_session_params params = read_struct(theirs, default_params(), "params");
  check_reserved(params.reserved, "params.reserved");
  const skv_kv_params kv = read_struct(params.kv, kv::default_kv_params(), "params.kv");
  return engine::resolve_session(params, kv, model.runtime(), model.model().config());
}

skv_status skv_session_params_init(skv_session_params* params, uint32_t struct_size) {
  return guarded(nullptr, [&] { write_defaults(params, struct_size, default_params(), "params"); });
}

skv_status skv_step_params_init(skv_step_params* params, uint32_t struct_size) {
  return guarded(nullptr, [&] { write_defaults(params, struct_size, kStepDefaults, "params"); });
}

skv_status skv_session_create(skv_model* model, const skv_session_params* params, skv_session** session_out,
                              skv_error* err) {
  return guarded(err, [&] {
    *not_null(session_out, "session_out") = nullptr;
    const Pin<ModelBox> parent(model);
    const engine::SessionConfig config = read_session_config(params, *parent.operator->());
    auto box = std::make_unique<SessionBox>();
    box->runtime = parent->open->runtime;
    const std::shared_ptr<const model::Model> shared(parent->open, &parent->open->model);
    box->session = std::make_unique<engine::Session>(box->runtime, shared, config);
    *session_out = make_handle(std::move(box));
  });
}

void skv_session_destroy(skv_session* session) {
  Shell* shell = table_of<SessionBox>().close(reinterpret_cast<uintptr_t>(session));
  if (shell == nullptr || ShellTable::forked(shell)) return;
  // A call that has just begun clears earlier interrupts, so one is not enough.
  while (ShellTable::pinned(shell)) {
    static_cast<SessionBox*>(shell->object)->session->interrupt();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  delete static_cast<SessionBox*>(ShellTable::take(shell));
}

void skv_session_interrupt(skv_session* session) {
  const Pin<SessionBox> box(session, std::nothrow);
  if (box) box->session->interrupt();
}

skv_status skv_session_step(skv_session* session, skv_row* rows, int32_t n_rows, uint32_t row_size,
                            const skv_step_params* params, skv_step_result* result, skv_error* err) {
  return guarded(err, [&] {
    StepRows ours(rows, n_rows, row_size);
    try {
      const SessionCall call(session);
      const engine::StepAllowance allowance = read_allowance(params);
      if (result == nullptr) {
        call->step(ours.rows(), allowance, nullptr);
      } else {
        OutStruct<skv_step_result> out(result, "result");
        const Finally write([&] { out.write(); });
        call->step(ours.rows(), allowance, &out.ours);
      }
    } catch (...) {
      ours.give_up(engine::current_failure());
      throw;
    }
    ours.write_back();
  });
}

skv_status skv_session_prefill(skv_session* session, skv_progress_fn progress, void* user, skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    if (progress == nullptr) {
      call->prefill(nullptr);
    } else {
      call->prefill([&](int64_t done, int64_t total) { return progress(user, done, total) == 0; });
    }
  });
}

skv_status skv_session_get_usage(skv_session* session, skv_session_usage* usage, skv_error* err) {
  return guarded(err, [&] {
    const SessionCall call(session);
    OutStruct<skv_session_usage> out(usage, "usage");
    call->usage(&out.ours);
    out.write();
  });
}

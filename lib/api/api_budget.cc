#include <span>

#include "lib/api/boxes.h"
#include "lib/api/guard.h"
#include "lib/api/struct_io.h"

using namespace skv;
using namespace skv::api;

skv_status skv_budget_query(skv_model* model, const skv_session_params* params, const int64_t* lengths,
                            int32_t n_sequences, int64_t shared_prefix, skv_budget* budget, skv_error* err) {
  return guarded(err, [&] {
    const Pin<ModelBox> box(model);
    const engine::SessionConfig config = read_session_config(params, *box.operator->());
    const std::size_t n = checked_count(lengths, n_sequences, "lengths", "n_sequences");
    if (shared_prefix != 0) {
      fail(SKV_E_INVALID, "shared_prefix is %lld; only 0 is allowed", static_cast<long long>(shared_prefix));
    }
    OutStruct<skv_budget> out(budget, "budget");
    engine::budget_query(box->model(), config, {lengths, n}, &out.ours);
    out.write();
  });
}

skv_status skv_budget_plan(skv_model* model, const skv_session_params* params, skv_budget_plan_io* plan,
                           skv_error* err) {
  return guarded(err, [&] {
    const Pin<ModelBox> box(model);
    const engine::SessionConfig config = read_session_config(params, *box.operator->());
    OutStruct<skv_budget_plan_io> out(plan, "plan");
    out.ours = read_struct<skv_budget_plan_io>(plan, {}, "plan");
    engine::budget_plan(box->model(), config, &out.ours);
    out.write();
  });
}

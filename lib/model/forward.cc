#include "lib/model/forward.h"

#include "lib/base/status.h"
#include "lib/model/llama.h"

namespace skv::model {

std::unique_ptr<Forward> make_forward(const Model& model, const kernels::Ops& ops) {
  if (model.config().architecture == "LlamaForCausalLM") return std::make_unique<LlamaForward>(model, ops);
  fail(SKV_E_MODEL, "architectures has '%.60s'; LlamaForCausalLM is supported", model.config().architecture.c_str());
}

}  // namespace skv::model

#include "lib/model/forward.h"

#include <utility>

#include "lib/base/status.h"
#include "lib/model/llama.h"

namespace skv::model {

std::unique_ptr<Forward> make_forward(const Config& config, std::shared_ptr<const Resident> resident,
                                      const kernels::Ops& ops) {
  if (config.architecture == "LlamaForCausalLM") return std::make_unique<LlamaForward>(config, std::move(resident), ops);
  fail(SKV_E_MODEL, "architectures has '%.60s'; LlamaForCausalLM is supported", config.architecture.c_str());
}

std::unique_ptr<Forward> make_forward(const Model& model, const kernels::Ops& ops) {
  return make_forward(model.config(), std::make_shared<const Resident>(model), ops);
}

}  // namespace skv::model

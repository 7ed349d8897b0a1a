// What the handles stand for. Children share ownership of their parents, so handles may be destroyed in any order.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "lib/api/handle.h"
#include "lib/engine/runtime.h"
#include "lib/engine/session.h"
#include "lib/model/model.h"
#include "shadowkv/types.h"

namespace skv::api {

struct RuntimeBox {
  using Handle = skv_runtime;
  static constexpr Kind kKind = Kind::runtime;
  static constexpr const char* kName = "runtime";
  static constexpr bool kWaits = false;

  std::shared_ptr<engine::Runtime> runtime;
};

// A model charges its runtime's account, so it keeps the runtime.
struct OpenModel {
  OpenModel(std::shared_ptr<engine::Runtime> owner, const std::string& path, bool metadata_only)
      : runtime(std::move(owner)), model(path, metadata_only, runtime->account(0)) {}

  std::shared_ptr<engine::Runtime> runtime;
  model::Model model;
};

struct ModelBox {
  using Handle = skv_model;
  static constexpr Kind kKind = Kind::model;
  static constexpr const char* kName = "model";
  static constexpr bool kWaits = false;

  std::shared_ptr<OpenModel> open;

  const model::Model& model() const { return open->model; }
  engine::Runtime& runtime() const { return *open->runtime; }
};

struct SessionBox {
  using Handle = skv_session;
  static constexpr Kind kKind = Kind::session;
  static constexpr const char* kName = "session";
  static constexpr bool kWaits = true;

  std::shared_ptr<engine::Runtime> runtime;
  std::unique_ptr<engine::Session> session;
  std::atomic<bool> busy{false};
};

// One call inside a session. Throws Error(SKV_E_HANDLE / SKV_E_BUSY / SKV_E_FORKED).
class SessionCall {
 public:
  explicit SessionCall(skv_session* handle) : pin_(handle) {
    if (pin_->busy.exchange(true, std::memory_order_acquire)) {
      fail(SKV_E_BUSY, "another call is inside this session");
    }
  }
  ~SessionCall() { pin_->busy.store(false, std::memory_order_release); }
  SessionCall(const SessionCall&) = delete;
  SessionCall& operator=(const SessionCall&) = delete;

  engine::Session* operator->() const { return pin_->session.get(); }
  engine::Runtime& runtime() const { return *pin_->runtime; }

 private:
  Pin<SessionBox> pin_;
};

// skv_session_params of a caller, its kv included, resolved for a model; NULL is the defaults.
engine::SessionConfig read_session_config(const skv_session_params* params, const ModelBox& model);

}  // namespace skv::api

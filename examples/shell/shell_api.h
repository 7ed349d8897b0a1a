// The C ABI with C++ ownership: handles that destroy themselves, and statuses that throw.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

#include "shadowkv/shadowkv.h"

namespace shell {

// A call of the library that failed, or a file of the user's that could not be used.
class Failure : public std::runtime_error {
 public:
  Failure(skv_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  skv_status status() const { return status_; }

 private:
  skv_status status_;
};

// Runs call(skv_error *) and throws what it reports.
template <class Call>
void check(Call&& call) {
  skv_error error = SKV_ERROR_INIT;
  const skv_status status = call(&error);
  if (status != SKV_OK) throw Failure(status, error.message);
}

struct HandleDeleter {
  void operator()(skv_runtime* p) const { skv_runtime_destroy(p); }
  void operator()(skv_model* p) const { skv_model_destroy(p); }
  void operator()(skv_session* p) const { skv_session_destroy(p); }
};
using Runtime = std::unique_ptr<skv_runtime, HandleDeleter>;
using Model = std::unique_ptr<skv_model, HandleDeleter>;
using Session = std::unique_ptr<skv_session, HandleDeleter>;

Runtime create_runtime(int32_t threads);
Model open_model(skv_runtime* runtime, const std::string& directory, bool metadata_only);
skv_model_info model_info(skv_model* model);

std::string read_text_file(const std::string& path);
void write_text_file(const std::string& path, const std::string& text);

}  // namespace shell

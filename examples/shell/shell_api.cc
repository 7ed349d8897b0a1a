#include "examples/shell/shell_api.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

namespace shell {

namespace {

void log_to_stderr(void*, skv_log_level, const char* line) { std::cerr << "shadowkv: " << line << '\n'; }

[[noreturn]] void fail_io(const std::string& what, const std::string& path) {
  throw Failure(SKV_E_IO, what + " " + path + ": " + std::strerror(errno));
}

}  // namespace

Runtime create_runtime(int32_t threads) {
  skv_runtime_params params;
  skv_runtime_params_init(&params, sizeof params);
  params.threads = threads;
  params.log = log_to_stderr;
  skv_runtime* runtime = nullptr;
  check([&](skv_error* err) { return skv_runtime_create(&params, &runtime, err); });
  return Runtime(runtime);
}

Model open_model(skv_runtime* runtime, const std::string& directory, bool metadata_only) {
  skv_model_params params;
  skv_model_params_init(&params, sizeof params);
  params.metadata_only = metadata_only ? 1 : 0;
  skv_model* model = nullptr;
  check([&](skv_error* err) { return skv_model_open(runtime, directory.c_str(), &params, &model, err); });
  return Model(model);
}

skv_model_info model_info(skv_model* model) {
  skv_model_info info{};
  info.struct_size = sizeof info;
  check([&](skv_error* err) { return skv_model_get_info(model, &info, err); });
  return info;
}

std::string read_text_file(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  // An empty file inserts nothing, which the stream calls a failure: only the source's state says what happened.
  if (file && file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (!file.is_open() || file.bad() || errno == EISDIR) fail_io("cannot read", path);
  return text.str();
}

void write_text_file(const std::string& path, const std::string& text) {
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) fail_io("cannot write", path);
}

}  // namespace shell

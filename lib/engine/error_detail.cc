#include "lib/engine/error_detail.h"

#include <cstring>
#include <new>

namespace skv::engine {

namespace {

// Not cut inside a UTF-8 character: bindings turn the message into strings of theirs.
std::size_t whole_characters(const std::string& text, std::size_t room) {
  if (text.size() <= room) return text.size();
  while (room > 0 && (static_cast<unsigned char>(text[room]) & 0xc0) == 0x80) --room;
  return room;
}

}  // namespace

Failure current_failure() noexcept {
  Failure failure{SKV_E_INTERNAL, 0, {}};
  try {
    try {
      throw;
    } catch (const Error& error) {
      failure.status = error.code();
      failure.native = error.native();
      failure.message = error.what();
    } catch (const std::bad_alloc&) {
      failure.status = SKV_E_NOMEM;
      failure.message = "the system refused memory for bookkeeping";
    } catch (const std::exception& error) {
      failure.message = error.what();
    }
  } catch (...) {  // no memory for the message: the code alone
  }
  return failure;
}

void raise(const Failure& failure) { throw Error(failure.status, failure.message, failure.native); }

void fill_error(const Failure& failure, skv_error* out) noexcept {
  // The size in the first version; a smaller one is not an skv_error that anybody compiled.
  constexpr uint32_t kFirstBytes = 272, kMaxBytes = 4096;
  if (out == nullptr || out->struct_size < kFirstBytes || out->struct_size > kMaxBytes) return;
  out->status = failure.status;
  out->native_code = failure.native;
  const std::size_t n = whole_characters(failure.message, sizeof out->message - 1);
  std::memcpy(out->message, failure.message.data(), n);
  std::memset(out->message + n, 0, sizeof out->message - n);
}

}  // namespace skv::engine

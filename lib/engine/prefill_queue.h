// Prompts waiting for their turn, oldest append first, and the one that is running.
#pragma once

#include <deque>
#include <memory>

#include "lib/engine/prefill_job.h"

namespace skv::engine {

class PrefillQueue {
 public:
  explicit PrefillQueue(Core& core) : core_(core) {}

  struct Counts {
    int32_t done = 0;
    int32_t failed = 0;
    Failure first_failure;
  };

  // The sequence got tokens. One that waits already takes them along when its turn comes.
  void push(SequenceState& sequence);
  // Drops the running prompt and the queue of the sequence, which is then as before.
  void drop(SequenceState& sequence) noexcept;

  bool idle() const { return !job_ && waiting_.empty(); }
  // Token-layers of the next unit, 0 when idle.
  int64_t next_unit() const;
  // One unit of the oldest prompt. A prompt that runs out of memory is dropped and counted; other failures throw,
  // with the prompt dropped too.
  void run_unit(Counts& counts);
  const PrefillJob* running() const { return job_.get(); }

 private:
  void drop_failed(SequenceState& sequence, Counts& counts);

  Core& core_;
  std::deque<SequenceState*> waiting_;
  std::unique_ptr<PrefillJob> job_;
};

}  // namespace skv::engine

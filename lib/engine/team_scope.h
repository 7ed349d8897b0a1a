// Sizes of workspaces follow the OpenMP team of the thread that asks. On a dispatcher that is right by itself; a
// thread that only asks (admission, budget queries) takes a dispatcher's team size while this object lives. Opens no
// region.
#pragma once

#include <omp.h>

namespace skv::engine {

class TeamScope {
 public:
  explicit TeamScope(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~TeamScope() { omp_set_num_threads(before_); }
  TeamScope(const TeamScope&) = delete;
  TeamScope& operator=(const TeamScope&) = delete;

 private:
  int before_;
};

}  // namespace skv::engine

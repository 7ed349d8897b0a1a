#pragma once

namespace skv::cuda_host {

// From now on crashes of kernels on this host thread name kernel, block, thread and line before the process ends.
void name_crashes();

}  // namespace skv::cuda_host

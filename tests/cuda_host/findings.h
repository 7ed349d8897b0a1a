// What the checkers found, for take_findings().
#pragma once

#include <string>

namespace skv::cuda_host {

// About the fiber that runs, or the block; site is an address in the kernel or null. Each (what, site) is told once
// until the findings are taken.
void found(const char* what, const void* site, const std::string& detail = {});
// "(file:line)" of an address of code, or "" where there is no debug information.
std::string source_line(const void* address);

}  // namespace skv::cuda_host

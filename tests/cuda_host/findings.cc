#include "tests/cuda_host/findings.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "tests/cuda_host/block.h"

namespace skv::cuda_host {

namespace {

constexpr std::size_t kMost = 20;  // lines kept until they are taken

// Never destroyed: they may be asked for when the program ends.
std::mutex& mutex = *new std::mutex;
std::vector<std::string>& findings = *new std::vector<std::string>;
std::size_t dropped = 0;
std::set<std::pair<std::string, const void*>>& known = *new std::set<std::pair<std::string, const void*>>;

std::string triple(uint3 v) {
  char text[40];
  std::snprintf(text, sizeof text, "(%u,%u,%u)", v.x, v.y, v.z);
  return text;
}

// The function an address is in, and its file:line, outwards through inlined functions but for the harness's own.
struct Symbol {
  std::string function, line;
};
void read_frames(FILE* pipe, Symbol& symbol) {
  char function[4096], place[4096];
  while (std::fgets(function, sizeof function, pipe) != nullptr && std::fgets(place, sizeof place, pipe) != nullptr) {
    std::string line = place;
    line.erase(std::min(line.find_first_of(" \n"), line.size()));
    if (line.starts_with("??")) continue;
    symbol.function = function;
    symbol.function.erase(symbol.function.find_last_not_of("\n") + 1);
    if (line.starts_with("cuda_host_")) continue;
    symbol.line += (symbol.line.empty() ? "" : " < ") + line;
  }
}

// By addr2line, once an address.
const Symbol& symbol(const void* address, bool is_return) {
  static auto& cache = *new std::map<const void*, Symbol>;
  const auto at = cache.find(address);
  if (at != cache.end()) return at->second;
  Symbol& result = cache[address];
  Dl_info info;
  if (dladdr(address, &info) == 0) return result;
  const auto offset = static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase) - is_return;
  char command[4096];
  std::snprintf(command, sizeof command, "addr2line -Cfise '%s' 0x%zx 2>/dev/null", info.dli_fname,
                static_cast<std::size_t>(offset));
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return result;
  read_frames(pipe, result);
  pclose(pipe);
  return result;
}

// Without namespaces and parameters.
std::string kernel_name() {
  std::string name = symbol(running->launch().kernel, false).function;
  for (const std::string prefix : {"(anonymous namespace)::", "skv::", "kernels::", "test::"}) {
    for (auto at = name.find(prefix); at != std::string::npos; at = name.find(prefix)) name.erase(at, prefix.size());
  }
  name.erase(std::min(name.find('('), name.size()));
  return name.starts_with("void ") ? name.substr(5) : name;
}

}  // namespace

std::string source_line(const void* address) {
  if (address == nullptr) return {};
  const Symbol& s = symbol(address, true);
  return s.line.empty() ? std::string() : "(" + s.line + ")";
}

void found(const char* what, const void* site, const std::string& detail) {
  const std::lock_guard lock(mutex);
  if (!known.emplace(what, site).second) return;
  if (findings.size() >= kMost) {
    ++dropped;
    return;
  }
  std::string text;
  if (running != nullptr) {
    text = "kernel " + kernel_name() + " block " + triple(running->block_index());
    if (running->current() != nullptr) text += " thread " + triple(running->current()->thread);
    text += ": ";
  }
  text += what;
  if (!detail.empty()) text += " " + detail;
  const std::string line = source_line(site);
  findings.push_back(text + (line.empty() ? "" : " " + line));
}

std::string take_findings() {
  const std::lock_guard lock(mutex);
  std::string text;
  for (const std::string& line : findings) text += line + "\n";
  if (dropped > 0) text += "and " + std::to_string(dropped) + " more\n";
  findings.clear();
  known.clear();
  dropped = 0;
  return text;
}

}  // namespace skv::cuda_host

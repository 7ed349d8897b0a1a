// A C++ host keeps its own operator new, and may free on one thread what it took on another while the library works.
#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "host_malloc.h"

int main() {
  host h{};
  mimalloc m{};
  std::vector<std::unique_ptr<char[]>> blocks;
  const auto take = [&] {
    for (std::size_t bytes : {1, 16, 100, 4096, 100000, 3000000}) blocks.push_back(std::make_unique<char[]>(bytes));
  };
  take();
  CHECK(host_open(&h) == 0);
  std::thread([&] { take(); }).join();
  CHECK(host_step(&h) == 0);
  take();
  CHECK(host_symbol_is_from("malloc", "libc.so"));
  CHECK(host_symbol_is_from("_Znwm", "libstdc++.so"));
  CHECK(host_symbol_is_from("_ZdlPv", "libstdc++.so"));
  if (h.uses_mimalloc) {
    CHECK(host_find_mimalloc(&m));
    void* probe = m.alloc(100);
    CHECK(m.owns(probe));
    m.free(probe);
    for (const auto& block : blocks) CHECK(!m.owns(block.get()));
    const std::string text(1000, 'x');
    CHECK(!m.owns(text.data()));
  }
  host_close(&h);
  std::thread([&] { blocks.clear(); }).join();
  return 0;
}

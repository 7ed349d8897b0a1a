// One line at a time from the user: edited and with history on a terminal, as it is from a pipe.
#pragma once

#include <memory>
#include <string>

namespace shell {

enum class LineResult { line, interrupted, end };

class LineEditor {
 public:
  LineEditor();
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  bool is_terminal() const;
  // Without its newline. Ctrl-C gives interrupted and an empty line.
  LineResult read(std::string* line);

 private:
  struct Terminal;
  std::unique_ptr<Terminal> terminal_;  // null: not a terminal
};

}  // namespace shell

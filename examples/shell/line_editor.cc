#include "examples/shell/line_editor.h"

#include <histedit.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cwchar>
#include <iostream>

#include "examples/shell/interrupts.h"

namespace shell {

namespace {

constexpr int kHistoryLines = 1000;

const char* prompt(EditLine*) { return "shadowkv> "; }

// libedit's own reader retries after a signal; this one gives up, so that Ctrl-C drops the line.
int read_character(EditLine* editor, wchar_t* out) {
  FILE* input = nullptr;
  el_get(editor, EL_GETFP, 0, &input);
  std::mbstate_t state{};
  for (int length = 0; length < 8; ++length) {
    char byte = 0;
    if (!wait_for_input(fileno(input))) return -1;
    const ssize_t n = ::read(fileno(input), &byte, 1);
    if (n == 0) return 0;
    if (n < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    const std::size_t used = std::mbrtowc(out, &byte, 1, &state);
    if (used == static_cast<std::size_t>(-2)) continue;  // more bytes to come
    if (used == static_cast<std::size_t>(-1)) *out = L'?';
    return 1;
  }
  return -1;
}

}  // namespace

struct LineEditor::Terminal {
  Terminal() : editor(el_init("shadowkv", stdin, stdout, stderr)), history(history_init()) {
    HistEvent event;
    ::history(history, &event, H_SETSIZE, kHistoryLines);
    ::history(history, &event, H_SETUNIQUE, 1);
    el_set(editor, EL_PROMPT, prompt);
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_HIST, ::history, history);
    el_set(editor, EL_GETCFN, read_character);
    el_source(editor, nullptr);  // ~/.editrc
  }
  ~Terminal() {
    history_end(history);
    el_end(editor);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  EditLine* editor;
  History* history;
};

LineEditor::LineEditor() {
  if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) terminal_ = std::make_unique<Terminal>();
}

LineEditor::~LineEditor() = default;

bool LineEditor::is_terminal() const { return terminal_ != nullptr; }

LineResult LineEditor::read(std::string* line) {
  line->clear();
  clear_interrupt();
  if (!terminal_) {
    if (std::getline(std::cin, *line)) return LineResult::line;
    return interrupted() ? LineResult::interrupted : LineResult::end;
  }
  int n = 0;
  const char* text = el_gets(terminal_->editor, &n);
  if (interrupted()) {
    std::cout << '\n' << std::flush;
    return LineResult::interrupted;
  }
  if (text == nullptr || n <= 0) {
    std::cout << '\n' << std::flush;
    return LineResult::end;
  }
  line->assign(text, static_cast<std::size_t>(n));
  while (!line->empty() && (line->back() == '\n' || line->back() == '\r')) line->pop_back();
  HistEvent event;
  if (!line->empty()) history(terminal_->history, &event, H_ENTER, line->c_str());
  return LineResult::line;
}

}  // namespace shell

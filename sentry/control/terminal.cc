#include "sentry/control/terminal.h"

#include <vector>

#include "sentry/fs/dev/devices.h"
#include "sentry/fs/devpts/console.h"
#include "sentry/task/kernel.h"
#include "sentry/vfs/walk.h"

namespace sbx::control {

namespace {
std::vector<RefPtr<fs::devpts::HostConsole>>& consoles() {
  static auto* list = new std::vector<RefPtr<fs::devpts::HostConsole>>;
  return *list;
}
}  // namespace

HostResult<MadeTerminal> make_terminal(const task::Container& container, UniqueFd host_tty, const ProcessSpec& spec) {
  if (!host_tty) return Failure(Errno::kBadf, "process.terminal: no terminal was handed over");
  const vfs::WalkContext ctx = container.kernel_context();
  auto* devpts = fs::devpts::DevptsFs::default_instance();
  if (auto mounted = vfs::resolve(ctx, "/dev/pts")) {
    if (auto* own = dynamic_cast<fs::devpts::DevptsFs*>(&mounted->mount->fs())) devpts = own;
  }
  if (devpts == nullptr) return Failure(Errno::kNodev, "process.terminal: no devpts among the mounts");
  auto console = fs::devpts::HostConsole::create(*devpts, std::move(host_tty), spec.uid, spec.gid);
  if (!console) return Failure(console.error(), std::string("process.terminal: ") + errno_text(console.error()));
  fs::devpts::Tty& tty = (*console)->tty();
  if (spec.console_rows != 0 || spec.console_columns != 0) {
    tty.set_window({spec.console_rows, spec.console_columns, 0, 0});
  } else {
    (*console)->update_window();
  }
  auto file = vfs::open(ctx, "/dev/pts/" + std::to_string(tty.index()), {.flags = O_RDWR | O_NOCTTY});
  if (!file) file = fs::devpts::open_slave(tty, vfs::Path(), O_RDWR | O_NOCTTY);
  if (!file) return Failure(file.error(), std::string("process.terminal: ") + errno_text(file.error()));
  if (consoles().empty()) fs::dev::set_console(RefPtr<fs::devpts::Tty>(&tty));
  consoles().push_back(*console);
  return MadeTerminal{*file, RefPtr<task::ControllingTty>(&tty)};
}

void host_window_changed() {
  for (const auto& console : consoles()) console->update_window();
}

void drain_terminals(u64 timeout_ms) {
  for (const auto& console : consoles()) console->drain(timeout_ms);
}

}  // namespace sbx::control

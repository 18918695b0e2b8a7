// ps, list: what runs.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <sstream>

#include "oci/json_write.h"
#include "runtime/commands/command.h"
#include "runtime/container/control_client.h"
#include "runtime/host/files.h"
#include "runtime/host/process.h"
#include "sentry/base/log.h"

namespace sbx::commands {
namespace {

using container::Container;

// Host pids of the sandbox by their pid inside its pid namespace (the last number of NSpid).
std::vector<std::pair<i32, i32>> namespace_pids(const std::vector<i32>& host_pids) {
  std::vector<std::pair<i32, i32>> out;
  for (i32 pid : host_pids) {
    auto status = host::read_file("/proc/" + std::to_string(pid) + "/status");
    size_t at = status ? status->find("NSpid:") : std::string::npos;
    if (at == std::string::npos) continue;
    std::istringstream line(status->substr(at + 6, status->find('\n', at) - at - 6));
    i32 inner = 0, outer = 0, level;
    for (int n = 0; line >> level; ++n) {
      if (n == 0) outer = level;
      inner = level;
    }
    out.emplace_back(inner, outer);
  }
  return out;
}

std::vector<i32> sandbox_pids(const Container& c) {
  host::Cgroup group = c.cgroup();
  std::vector<i32> pids = group.exists() ? group.pids() : std::vector<i32>();
  if (pids.empty()) pids.push_back(c.state.pid);
  return pids;
}

std::string start_text(i64 seconds) {
  std::time_t t = static_cast<std::time_t>(seconds), now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&t, &parts);
  char text[16];
  std::strftime(text, sizeof(text), now - t < 86400 ? "%H:%M" : "%b%d", &parts);
  return text;
}

}  // namespace

HostResult<int> ps(Globals& globals, const Arguments& args) {
  Container c = TRY(Container::open(globals.settings.root, args.positional()[0], container::Lock::kNone));
  if (!c.alive()) return Failure("container not running");
  std::string format = args.value("format", "table");
  if (format != "table" && format != "json") return Failure("invalid format option");
  HostResult<control::PsReply> reply = Failure("container is paused");
  if (c.status() != oci::Status::kPaused) {
    auto client = container::ControlClient::connect(c);
    if (client) reply = client->call_for<control::PsReply>(control::PsRequest{}, {}, 10'000);
  }
  if (format == "json") {
    // Host pids: engines look them up in the host's own ps. The guest's processes are their stubs; when the sentry
    // cannot tell, everything in the sandbox.
    std::vector<i32> pids = sandbox_pids(c);
    if (reply) {
      auto inner = namespace_pids(pids);
      std::vector<i32> guests;
      for (const control::PsEntry& p : reply->processes) {
        for (const auto& [in, out] : inner) {
          if (p.host_pid != 0 && in == p.host_pid) guests.push_back(out);
        }
      }
      if (!guests.empty()) pids = std::move(guests);
    }
    print(oci::write_pids(pids) + "\n");
    return 0;
  }
  if (!reply) return std::move(reply).error();
  std::string out =
      str_printf("%-8s %7s %7s %2s %5s %-6s %8s %s\n", "UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD");
  for (const control::PsEntry& p : reply->processes) {
    std::string command;
    for (const std::string& a : p.cmdline) command += (command.empty() ? "" : " ") + a;
    if (command.empty()) command = "[" + p.comm + "]";
    u64 seconds = p.cpu_ms / 1000;
    std::string tty = p.tty_nr == 0 ? "?" : "pts/" + std::to_string(p.tty_nr & 0xff);
    out += str_printf("%-8u %7d %7d %2d %5s %-6s %02lu:%02lu:%02lu %s\n", p.uid, p.pid, p.ppid, 0,
                      start_text(p.start_time_s).c_str(), tty.c_str(), seconds / 3600, seconds / 60 % 60, seconds % 60,
                      command.c_str());
  }
  print(out);
  return 0;
}

HostResult<int> list(Globals& globals, const Arguments& args) {
  std::string format = args.value("format", "table");
  if (format != "table" && format != "json") return Failure("invalid format option");
  std::vector<std::pair<oci::State, oci::Status>> found;
  for (const std::string& id : Container::list(globals.settings.root)) {
    auto c = Container::open(globals.settings.root, id, container::Lock::kNone);
    if (!c) continue;  // being made or removed right now
    found.emplace_back(c->state, c->status());
  }
  if (args.on("quiet")) {
    std::string out;
    for (const auto& [s, status] : found) out += s.id + "\n";
    print(out);
    return 0;
  }
  if (format == "json") {
    print(oci::write_list(found));
    return 0;
  }
  // Column widths as a tab writer of minimum cell 12 and padding 3 makes them.
  std::vector<std::vector<std::string>> rows = {{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}};
  for (const auto& [s, status] : found) {
    rows.push_back({s.id, std::to_string(status == oci::Status::kStopped ? 0 : s.pid), oci::status_name(status),
                    s.bundle, s.created, s.owner});
  }
  std::string out;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      size_t width = 12;
      for (const auto& other : rows) width = std::max(width, other[i].size() + 3);
      out += row[i];
      if (i + 1 < row.size()) out.append(width - row[i].size(), ' ');
    }
    out += "\n";
  }
  print(out);
  return 0;
}

}  // namespace sbx::commands

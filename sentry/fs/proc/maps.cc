#include "sentry/fs/proc/maps.h"

#include <sys/mman.h>

#include <charconv>

#include "sentry/base/log.h"
#include "sentry/platform/layout.h"

namespace sbx::fs::proc {

namespace {

constexpr std::string_view kPatchedText = "/memfd:text";
constexpr u64 kOwnStart = platform::kReservedBegin, kOwnEnd = platform::kReservedEnd;

struct Line {
  u64 start = 0, end = 0;
  std::string_view middle;  // " rw-p 00000000 00:00 0"
  std::string_view name;
};

// False: not the first line of an area (smaps has value lines below each).
bool parse(std::string_view line, Line& out) {
  const char* last = line.data() + line.size();
  auto [dash, bad] = std::from_chars(line.data(), last, out.start, 16);
  if (bad != std::errc() || dash == last || *dash != '-') return false;
  auto [space, worse] = std::from_chars(dash + 1, last, out.end, 16);
  if (worse != std::errc() || space == last || *space != ' ') return false;
  std::string_view rest(space, static_cast<size_t>(last - space));
  // Four fields: permissions, offset, device, inode.
  size_t at = 0;
  for (int field = 0; field < 4; ++field) {
    at = rest.find_first_not_of(' ', at);
    if (at == std::string_view::npos) return false;
    at = rest.find(' ', at);
    if (at == std::string_view::npos) at = rest.size();
  }
  out.middle = rest.substr(0, at);
  at = rest.find_first_not_of(' ', at);
  out.name = at == std::string_view::npos ? std::string_view() : rest.substr(at);
  return true;
}

template <typename Visit>
void each_line(std::string_view text, Visit visit) {
  while (!text.empty()) {
    size_t end = text.find('\n');
    if (end == std::string_view::npos) end = text.size();
    visit(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// Permissions and offset of `line`, device and inode of `file`.
std::string with_file_of(std::string_view line, std::string_view file) {
  auto field = [](std::string_view text, int n) {
    size_t at = 0;
    for (int i = 0; i < n; ++i) at = text.find(' ', text.find_first_not_of(' ', at));
    return std::min(at, text.size());
  };
  return std::string(line.substr(0, field(line, 2))).append(file.substr(field(file, 2)));
}

std::string guest_name(const Line& line, const MapsView& view) {
  // The host labels its own idea of heap and stack, which belong to the program the stub began as.
  if (line.name.empty() || line.name == "[heap]" || line.name == "[stack]" || line.name.starts_with("[anon")) {
    if (view.stack >= line.start && view.stack < line.end) return "[stack]";
    if (view.heap_start < view.heap_end && line.start < view.heap_end && line.end > view.heap_start) return "[heap]";
    return {};
  }
  if (line.name.front() == '[') return std::string(line.name);
  if (line.name.starts_with("/memfd:") || line.name.starts_with("/dev/zero")) return {};
  return view.path ? view.path(line.name) : std::string(line.name);
}

}  // namespace

bool is_hidden(u64 start, u64 end) { return start >= kOwnStart && end <= kOwnEnd; }

Result<u32> private_protection(std::string_view host_maps, u64 addr) {
  Result<u32> found = Errno::kFault;
  each_line(host_maps, [&](std::string_view text) {
    Line line;
    if (!parse(text, line) || addr < line.start || addr >= line.end || is_hidden(line.start, line.end)) return;
    // " r-xp ..."
    if (line.middle.size() < 5 || line.middle[2] == 'w' || line.middle[4] != 'p') return;
    found = static_cast<u32>((line.middle[1] == 'r' ? PROT_READ : 0) | (line.middle[3] == 'x' ? PROT_EXEC : 0));
  });
  return found;
}

std::string translate_maps(std::string_view host, const MapsView& view) {
  std::string out;
  out.reserve(host.size());
  bool skipping = false;
  Line before;  // without its middle
  std::string middle, middle_before;
  each_line(host, [&](std::string_view text) {
    Line line;
    if (!parse(text, line)) {
      if (!skipping) out.append(text).append("\n");
      return;
    }
    if (line.name.starts_with(kPatchedText)) {
      // The text of the file mapped right below it (sentry/platform/patched_text.h).
      bool follows = before.end == line.start;
      line.name = follows ? before.name : std::string_view();
      if (follows) middle = with_file_of(line.middle, middle_before), line.middle = middle;
    }
    before = line;
    middle_before = line.middle;
    skipping = is_hidden(line.start, line.end) || line.name == "[vsyscall]";
    if (skipping) return;
    std::string row = str_printf("%08llx-%08llx", static_cast<unsigned long long>(line.start),
                                 static_cast<unsigned long long>(line.end));
    row.append(line.middle);
    std::string name = guest_name(line, view);
    if (!name.empty()) {
      row.resize(std::max<size_t>(row.size() + 1, 73), ' ');
      row += name;
    } else {
      row += ' ';
    }
    out.append(row).append("\n");
  });
  return out;
}

u64 hidden_bytes(std::string_view host) {
  u64 total = 0;
  each_line(host, [&](std::string_view text) {
    Line line;
    if (parse(text, line) && is_hidden(line.start, line.end)) total += line.end - line.start;
  });
  return total;
}

}  // namespace sbx::fs::proc

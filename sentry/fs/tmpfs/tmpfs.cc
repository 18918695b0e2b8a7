#include "sentry/fs/tmpfs/tmpfs.h"

#include <linux/magic.h>
#include <sys/sysinfo.h>

#include <charconv>

#include "sentry/base/log.h"
#include "sentry/fs/tmpfs/node.h"

namespace sbx::tmpfs {
namespace {

constexpr u64 kFallbackMemory = 4ull << 30;

u64 machine_memory() {
  static const u64 total = [] {
    struct sysinfo info {};
    if (sysinfo(&info) != 0) return kFallbackMemory;
    return static_cast<u64>(info.totalram) * info.mem_unit;
  }();
  return total;
}

Result<u64> parse_number(std::string_view text, int base) {
  u64 value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return Errno::kInval;
  return value;
}

// "64k", "1g", "50%" (of `whole`).
Result<u64> parse_size(std::string_view text, u64 whole) {
  if (text.empty()) return Errno::kInval;
  char unit = text.back();
  u64 factor = 1;
  switch (unit) {
    case 'k':
    case 'K': factor = 1ull << 10; break;
    case 'm':
    case 'M': factor = 1ull << 20; break;
    case 'g':
    case 'G': factor = 1ull << 30; break;
    case 't':
    case 'T': factor = 1ull << 40; break;
    case '%': break;
    default: return parse_number(text, 10);
  }
  u64 number = TRY(parse_number(text.substr(0, text.size() - 1), 10));
  u64 value = 0;
  if (unit == '%') {
    if (__builtin_mul_overflow(whole / 100, number, &value)) return Errno::kInval;
    return value;
  }
  if (__builtin_mul_overflow(number, factor, &value)) return Errno::kInval;
  return value;
}

Result<void> apply_option(Options& o, std::string_view key, std::string_view value) {
  if (key == "size") {
    o.size = TRY(parse_size(value, machine_memory()));
    o.size_given = true;
  } else if (key == "nr_blocks") {
    o.size = TRY(parse_size(value, 0)) * kPageSize;
    o.size_given = true;
  } else if (key == "nr_inodes") {
    o.nr_inodes = TRY(parse_size(value, 0));
    o.inodes_given = true;
  } else if (key == "mode") {
    o.mode = static_cast<u32>(TRY(parse_number(value, 8))) & 07777;
  } else if (key == "uid") {
    o.uid = static_cast<u32>(TRY(parse_number(value, 10)));
  } else if (key == "gid") {
    o.gid = static_cast<u32>(TRY(parse_number(value, 10)));
  } else if (key != "huge" && key != "mpol" && key != "noswap" && key != "inode32" && key != "inode64") {
    return Errno::kInval;
  }
  return {};
}

}  // namespace

Result<Options> parse_options(std::string_view text) {
  Options o;
  o.size = machine_memory() / 2;
  o.nr_inodes = machine_memory() / 2 / kPageSize;
  while (!text.empty()) {
    size_t comma = text.find(',');
    std::string_view option = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    if (option.empty()) continue;
    size_t equals = option.find('=');
    std::string_view value = equals == std::string_view::npos ? std::string_view() : option.substr(equals + 1);
    TRY(apply_option(o, option.substr(0, equals), value));
  }
  return o;
}

Tmpfs::Tmpfs(const Options& options, const char* type_name, const char* source)
    : type_name_(type_name), source_(source), options_(options), usage_(std::make_shared<Usage>()) {
  usage_->page_limit = (options.size + kPageSize - 1) / kPageSize;
  usage_->inode_limit = options.nr_inodes;
  NewNode how;
  how.mode = S_IFDIR | options.mode;
  how.uid = options.uid;
  how.gid = options.gid;
  root_ = make_ref<Directory>(*this, how);
}

Tmpfs::~Tmpfs() = default;

RefPtr<Tmpfs> Tmpfs::create(const Options& options) { return create(options, "tmpfs", "tmpfs"); }

RefPtr<Tmpfs> Tmpfs::create(const Options& options, const char* type_name, const char* source) {
  return RefPtr<Tmpfs>(new Tmpfs(options, type_name, source));
}

RefPtr<vfs::Inode> Tmpfs::root() { return root_; }

Result<vfs::StatFs> Tmpfs::statfs() {
  vfs::StatFs s;
  s.type = TMPFS_MAGIC;
  s.fsid = dev();
  s.blocks = usage_->page_limit;
  s.bfree = s.bavail = usage_->page_limit == 0 ? 0 : usage_->pages_left();
  s.files = usage_->inode_limit;
  s.ffree = usage_->inode_limit > usage_->inodes ? usage_->inode_limit - usage_->inodes : 0;
  return s;
}

std::string Tmpfs::options() const {
  std::string text;
  auto add = [&](const std::string& option) { text += (text.empty() ? "" : ",") + option; };
  if (options_.size_given) add("size=" + std::to_string(usage_->page_limit * (kPageSize / 1024)) + "k");
  if (options_.inodes_given) add("nr_inodes=" + std::to_string(usage_->inode_limit));
  if (options_.mode != 01777) add(str_printf("mode=%03o", options_.mode));
  if (options_.uid != 0) add("uid=" + std::to_string(options_.uid));
  if (options_.gid != 0) add("gid=" + std::to_string(options_.gid));
  return text;
}

Result<void> Tmpfs::remount(std::string_view text) {
  Options o = TRY(parse_options(text));
  u64 pages = (o.size + kPageSize - 1) / kPageSize;
  if (o.size_given && pages != 0 && pages < usage_->pages) return Errno::kInval;
  if (o.inodes_given && o.nr_inodes != 0 && o.nr_inodes < usage_->inodes) return Errno::kInval;
  if (o.size_given) {
    usage_->page_limit = pages;
    options_.size_given = true;
  }
  if (o.inodes_given) {
    usage_->inode_limit = o.nr_inodes;
    options_.inodes_given = true;
  }
  return {};
}

}  // namespace sbx::tmpfs

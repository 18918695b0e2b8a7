#include "sentry/fs/proc/node.h"

#include <dirent.h>

#include <algorithm>
#include <charconv>

namespace sbx::fs::proc {

namespace {

class TextFile final : public vfs::File {
 public:
  TextFile(vfs::Path path, u32 flags, RefPtr<TextNode> node) : File(std::move(path), flags), node_(std::move(node)) {}

  Result<size_t> read(vfs::Sink& sink, u64* offset) override {
    u64 at = offset != nullptr ? *offset : 0;
    if (at == 0 || !made_) {
      text_ = TRY(node_->text());
      made_ = true;
    }
    if (at >= text_.size()) return size_t{0};
    size_t n = std::min<u64>(sink.left(), text_.size() - at);
    n = TRY(sink.put(text_.data() + at, n));
    if (offset != nullptr) *offset = at + n;
    return n;
  }

  Result<size_t> write(vfs::Source& source, u64* offset) override {
    std::string in(std::min<size_t>(source.left(), kPageSize), '\0');
    const size_t n = TRY(source.get(in.data(), in.size()));
    in.resize(n);
    TRY(node_->store(in));
    made_ = false;
    if (offset != nullptr) *offset += n;
    return n;
  }

  bool seekable() const override { return true; }

 private:
  RefPtr<TextNode> node_;
  std::string text_;
  bool made_ = false;
};

class DirFile final : public vfs::File {
 public:
  DirFile(vfs::Path path, u32 flags, RefPtr<DirNode> node) : File(std::move(path), flags), node_(std::move(node)) {}
  Result<size_t> read(vfs::Sink&, u64*) override { return Errno::kIsdir; }
  bool seekable() const override { return true; }

  Result<void> read_dir(const std::function<bool(const vfs::DirEntry&)>& emit) override {
    const vfs::Dentry* parent = path().dentry ? path().dentry->parent() : nullptr;
    auto* up = parent != nullptr ? static_cast<Node*>(parent->inode()) : nullptr;
    if (position < 1) {
      if (!emit({".", node_->ino(), DT_DIR, 1})) return {};
      position = 1;
    }
    if (position < 2) {
      if (!emit({"..", up != nullptr ? up->ino() : node_->ino(), DT_DIR, 2})) return {};
      position = 2;
    }
    for (const vfs::DirEntry& entry : TRY(node_->list())) {
      if (entry.next <= position) continue;
      if (!emit(entry)) break;
      position = entry.next;
    }
    return {};
  }

 private:
  RefPtr<DirNode> node_;
};

}  // namespace

Result<vfs::StatFs> PseudoFs::statfs() {
  vfs::StatFs s;
  s.type = magic_;
  return s;
}

Result<vfs::Attr> Node::attr() {
  vfs::Attr a;
  const NodeOwner owner = node_owner();
  a.dev = fs().dev();
  a.ino = ino_;
  a.mode = mode_;
  a.nlink = links();
  a.uid = owner.uid;
  a.gid = owner.gid;
  a.blksize = 1024;
  a.atime = a.mtime = a.ctime = a.btime = time_;
  return a;
}

Result<void> Node::set_attr(const vfs::SetAttr& change) {
  if ((change.mask & (vfs::SetAttr::kMode | vfs::SetAttr::kUid | vfs::SetAttr::kGid)) != 0) return Errno::kPerm;
  return {};
}

Result<RefPtr<vfs::File>> TextNode::open(const vfs::Path& path, u32 flags) {
  TRY(may_open(flags));
  return RefPtr<vfs::File>(make_ref<TextFile>(path, flags, RefPtr<TextNode>(this)));
}

Result<RefPtr<vfs::File>> DirNode::open(const vfs::Path& path, u32 flags) {
  TRY(may_list());
  return RefPtr<vfs::File>(make_ref<DirFile>(path, flags, RefPtr<DirNode>(this)));
}

void StaticDir::add(std::string name, RefPtr<Node> node) { entries_[std::move(name)] = std::move(node); }

void StaticDir::text(std::string name, TextMaker make, u32 mode, TextTaker take) {
  add(std::move(name), make_ref<SimpleText>(pseudo_fs(), mode, std::move(make), std::move(take)));
}

void StaticDir::constant(std::string name, std::string value, u32 mode) {
  text(
      std::move(name), [value]() -> Result<std::string> { return value; }, mode);
}

void StaticDir::link(std::string name, std::string target) {
  add(std::move(name), make_ref<SimpleLink>(pseudo_fs(), [target]() -> Result<std::string> { return target; }));
}

StaticDir& StaticDir::dir(std::string_view path) {
  const size_t slash = path.find('/');
  const std::string name(path.substr(0, slash));
  RefPtr<Node>& slot = entries_[name];
  if (!slot) slot = make_ref<StaticDir>(pseudo_fs());
  auto& child = static_cast<StaticDir&>(*slot);
  return slash == std::string_view::npos ? child : child.dir(path.substr(slash + 1));
}

Result<RefPtr<vfs::Inode>> StaticDir::lookup(std::string_view name) {
  auto it = entries_.find(name);
  if (it == entries_.end()) return Errno::kNoent;
  return RefPtr<vfs::Inode>(it->second);
}

Result<std::vector<vfs::DirEntry>> StaticDir::list() {
  std::vector<vfs::DirEntry> out;
  for (const auto& [name, node] : entries_) {
    out.push_back({name, node->ino(), dirent_type(node->mode()), 3 + out.size()});
  }
  return out;
}

u8 dirent_type(u32 mode) { return static_cast<u8>((mode & S_IFMT) >> 12); }

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\0')) text.remove_suffix(1);
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  return text;
}

Result<i64> parse_number(std::string_view text) {
  text = trim(text);
  i64 value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return Errno::kInval;
  return value;
}

}  // namespace sbx::fs::proc

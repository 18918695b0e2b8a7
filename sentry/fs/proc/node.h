// What /proc and /sys are made of: files whose text is made when they are read, links, directories. Kernel lock.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sentry/vfs/file.h"
#include "sentry/vfs/inode.h"

namespace sbx::fs::proc {

// A pseudo filesystem. There is one instance of each kind for ever, so nodes never outlive it.
class PseudoFs final : public vfs::FileSystem {
 public:
  PseudoFs(const char* type, u64 magic) : type_(type), magic_(magic) {}
  const char* type_name() const override { return type_; }
  RefPtr<vfs::Inode> root() override { return root_; }
  void set_root(RefPtr<vfs::Inode> root) { root_ = std::move(root); }
  Result<vfs::StatFs> statfs() override;
  u64 next_ino() { return next_ino_++; }

 private:
  const char* type_;
  u64 magic_;
  u64 next_ino_ = 1;
  RefPtr<vfs::Inode> root_;
};

// Owner of a node; asked at each access since processes change theirs.
struct NodeOwner {
  u32 uid = 0, gid = 0;
};

class Node : public vfs::Inode {
 public:
  // mode: type and permission bits.
  Node(PseudoFs& fs, u64 ino, u32 mode) : Inode(fs), ino_(ino), mode_(mode), time_(vfs::time_now()) {}
  Result<vfs::Attr> attr() override;
  u32 type() const override { return mode_ & S_IFMT; }
  // chmod and chown are refused; truncation and times are accepted and mean nothing (open with O_TRUNC).
  Result<void> set_attr(const vfs::SetAttr& change) override;
  Result<RefPtr<vfs::File>> open(const vfs::Path&, u32) override { return Errno::kAcces; }
  virtual NodeOwner node_owner() const { return {}; }
  u64 ino() const { return ino_; }
  u32 mode() const { return mode_; }
  PseudoFs& pseudo_fs() const { return static_cast<PseudoFs&>(fs()); }

 protected:
  virtual u32 links() const { return 1; }

 private:
  u64 ino_;
  u32 mode_;
  vfs::Time time_;
};

// A file with made text. read() runs at the first read and again whenever reading starts over at 0; may park.
class TextNode : public Node {
 public:
  using Node::Node;
  virtual Result<std::string> text() = 0;
  // One write(2), at most a page. kPerm: cannot be written.
  virtual Result<void> store(std::string_view) { return Errno::kPerm; }
  // Before the open: who may, beyond the permission bits.
  virtual Result<void> may_open(u32 /*flags*/) { return {}; }
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
};

using TextMaker = std::function<Result<std::string>()>;
using TextTaker = std::function<Result<void>(std::string_view)>;

class SimpleText final : public TextNode {
 public:
  SimpleText(PseudoFs& fs, u32 mode, TextMaker make, TextTaker take = {})
      : TextNode(fs, fs.next_ino(), S_IFREG | mode), make_(std::move(make)), take_(std::move(take)) {}
  Result<std::string> text() override { return make_(); }
  Result<void> store(std::string_view in) override {
    if (!take_) return Errno::kPerm;
    return take_(in);
  }

 private:
  TextMaker make_;
  TextTaker take_;
};

class LinkNode : public Node {
 public:
  LinkNode(PseudoFs& fs, u64 ino, u32 mode = 0777) : Node(fs, ino, S_IFLNK | mode) {}
};

class SimpleLink final : public LinkNode {
 public:
  SimpleLink(PseudoFs& fs, TextMaker target) : LinkNode(fs, fs.next_ino()), target_(std::move(target)) {}
  Result<std::string> read_link() override { return target_(); }

 private:
  TextMaker target_;
};

// Entries of a directory besides "." and "..". Positions (next) are the lister's: ascending, above 2.
class DirNode : public Node {
 public:
  using Node::Node;
  virtual Result<std::vector<vfs::DirEntry>> list() = 0;
  Result<RefPtr<vfs::File>> open(const vfs::Path& path, u32 flags) override;
  virtual Result<void> may_list() { return {}; }

 protected:
  u32 links() const override { return 2; }
};

// Fixed entries, made once.
class StaticDir : public DirNode {
 public:
  explicit StaticDir(PseudoFs& fs, u32 mode = 0555) : DirNode(fs, fs.next_ino(), S_IFDIR | mode) {}
  void add(std::string name, RefPtr<Node> node);
  void text(std::string name, TextMaker make, u32 mode = 0444, TextTaker take = {});
  void constant(std::string name, std::string text, u32 mode = 0444);
  void link(std::string name, std::string target);
  // The directory `path` below this one ("a/b"), made on first use.
  StaticDir& dir(std::string_view path);
  Result<RefPtr<vfs::Inode>> lookup(std::string_view name) override;
  Result<std::vector<vfs::DirEntry>> list() override;

 protected:
  std::map<std::string, RefPtr<Node>, std::less<>> entries_;
};

u8 dirent_type(u32 mode);
// A whole file's worth of decimal digits, or kInval ("12\n").
Result<i64> parse_number(std::string_view text);
std::string_view trim(std::string_view text);

}  // namespace sbx::fs::proc

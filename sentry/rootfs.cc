#include "sentry/rootfs.h"

#include <algorithm>

#include "sentry/control/limits.h"
#include "sentry/fs/anon/epoll.h"
#include "sentry/fs/dev/devices.h"
#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/proc/host_facts.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/sys/sysfs.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/net/inet_socket.h"
#include "sentry/net/socket.h"
#include "sentry/task/fd_table.h"
#include "sentry/task/kernel.h"
#include "sentry/task/task.h"
#include "sentry/vfs/file_locks.h"
#include "sentry/vfs/fs_types.h"

namespace sbx {

namespace {

template <typename Fs>
Result<RefPtr<vfs::FileSystem>> as_filesystem(Result<RefPtr<Fs>> made) {
  if (!made) return made.error();
  return RefPtr<vfs::FileSystem>(*made);
}

Result<RefPtr<vfs::FileSystem>> make_tmpfs(std::string_view data, const char* type, const char* source) {
  tmpfs::Options options = TRY(tmpfs::parse_options(data));
  return RefPtr<vfs::FileSystem>(tmpfs::Tmpfs::create(options, type, source));
}

void fill_host_facts(const control::BootConfig& config) {
  control::set_limits(config.limits);
  fs::proc::complete_host_facts();
}

}  // namespace

void register_filesystems(const control::BootConfig& config, std::shared_ptr<gofer::Client> gofer) {
  fill_host_facts(config);
  using std::string_view;
  vfs::register_fs_type({"tmpfs", [](string_view, string_view data) { return make_tmpfs(data, "tmpfs", "tmpfs"); }});
  vfs::register_fs_type(
      {"devtmpfs", [](string_view, string_view data) { return make_tmpfs(data, "devtmpfs", "devtmpfs"); }});
  vfs::register_fs_type({"ramfs", [](string_view, string_view) { return make_tmpfs("size=0", "ramfs", "ramfs"); }});
  // Queues are the calls' (fs/mqueue) and not shown here; what programs look for is the directory.
  vfs::register_fs_type({"mqueue", [](string_view, string_view) { return make_tmpfs("size=0", "mqueue", "mqueue"); }});
  vfs::register_fs_type({"devpts", [](string_view, string_view data) -> Result<RefPtr<vfs::FileSystem>> {
                           fs::devpts::Options options = TRY(fs::devpts::parse_options(data));
                           return RefPtr<vfs::FileSystem>(make_ref<fs::devpts::DevptsFs>(options));
                         }});
  vfs::register_fs_type({"proc", [](string_view, string_view) -> Result<RefPtr<vfs::FileSystem>> {
                           return fs::proc::proc_filesystem();
                         }});
  vfs::register_fs_type(
      {"sysfs", [](string_view, string_view) -> Result<RefPtr<vfs::FileSystem>> { return fs::sys::sys_filesystem(); }});
  fs::proc::set_host_proc_reader(
      [gofer](i32 pid, const char* kind) { return fs::gofer::host_proc(*gofer, pid, kind); });
  fs::pipe::register_fifo();
  fs::dev::register_devices();
  net::register_unix();
  net::register_inet();
  net::register_netlink();
  net::caller_capable = [](int capability) {
    const task::Task* task = task::current_task();
    return task != nullptr && task->creds->capable(static_cast<u32>(capability));
  };
  net::caller_network = []() -> net::Network& { return *task::kernel().current_container().network; };
  net::caller_identity = [] {
    const task::Task* task = task::current_task();
    return task != nullptr ? net::Identity{task->pid(), task->creds->euid, task->creds->egid} : net::Identity{0, 0, 0};
  };
  task::FdTable::on_close([](task::FdTable& table, int, vfs::File& file) {
    if (vfs::Inode* inode = file.inode(); inode != nullptr && inode->has_locks()) inode->locks().release_posix(&table);
  });
  vfs::WriteDenial::on_busy([] { task::reap_all_closes(); });
}

control::BindMaker gofer_bind_maker(std::shared_ptr<gofer::Client> gofer) {
  return [gofer](const control::BootMount& mount) -> Result<RefPtr<vfs::FileSystem>> {
    return as_filesystem(fs::gofer::GoferFs::create(gofer, static_cast<u32>(mount.gofer_index), mount.source));
  };
}

}  // namespace sbx

"""Runs one command in the same root filesystem in several ways: natively (a chroot), or in a container of an OCI
runtime, sbx among them. Used by the tests and by the benchmarks; only Python's standard library.

The working root is an overlay over the cached Debian tree, which stays clean, in a mount namespace of the test's own,
so nothing is left mounted whatever happens to the test. Where overlay mounts are refused, it is a copy.
"""
import argparse
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
CAPABILITIES = ("chown dac_override fsetid fowner mknod net_raw setgid setuid setfcap setpcap net_bind_service "
                "sys_chroot kill audit_write").split()
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
               "TERM": "xterm", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
CLONE_NEWNS = 0x20000
NOFILE = 4096


def private_mounts():
    """Moves this process into a mount namespace of its own; what it mounts dies with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS): run this as root")
    subprocess.check_call(["mount", "--make-rprivate", "/"])


def cached_rootfs(packages=""):
    """The clean Debian tree, made on first use. Never written to."""
    printed = subprocess.check_output([os.path.join(REPO, "scripts/make-rootfs"), os.path.join(REPO, "build/cache"), packages],
                                      text=True)
    return os.path.realpath(printed.strip().splitlines()[-1])  # runc takes no symbolic link


class WorkRoot:
    """A writable root filesystem over a clean one. Needs private_mounts() first, except with copy=True."""

    def __init__(self, clean, copy=False):
        # Beside the clean tree: on one filesystem, overlay keeps inode numbers consistent.
        self.base = tempfile.mkdtemp(prefix="work-", dir=os.path.dirname(clean))
        os.chmod(self.base, 0o755)
        self.path = os.path.join(self.base, "rootfs")
        self.mounted = []
        os.mkdir(self.path)
        if copy or not self._overlay(clean):
            subprocess.check_call(["cp", "-a", "--reflink=auto", clean + "/.", self.path])

    def _mount(self, *arguments):
        ok = subprocess.call(["mount", *arguments], stderr=subprocess.DEVNULL) == 0
        if ok:
            self.mounted.append(arguments[-1])
        return ok

    def _overlay(self, clean):
        upper = os.path.join(self.base, "upper")
        os.mkdir(upper)
        for name in ("up", "work"):
            os.mkdir(os.path.join(upper, name))
        os.chmod(os.path.join(upper, "up"), 0o755)
        return self._mount("-t", "overlay", "-o", "lowerdir=%s,upperdir=%s/up,workdir=%s/work" % (clean, upper, upper),
                           "overlay", self.path)

    def close(self):
        for path in reversed(self.mounted):
            subprocess.call(["umount", "-l", path], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Result:
    """What a command did: stdout and stderr as bytes, exit status, wall and CPU seconds, whether it was cut short."""

    def __init__(self, stdout, stderr, status, wall, cpu, timed_out):
        self.stdout, self.stderr, self.status = stdout, stderr, status
        self.wall, self.cpu, self.timed_out = wall, cpu, timed_out


def run_host(argv, stdin=b"", timeout=120, environment=None, on_timeout=None):
    """Runs a host command in a session of its own. When the time is over on_timeout is called and the session killed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True, env=environment)
    timed_out = False
    try:
        out, err = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
        if on_timeout:
            on_timeout()
        os.killpg(process.pid, signal.SIGKILL)
        try:
            out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired as late:
            out, err = late.stdout or b"", (late.stderr or b"") + b"(its output was still held open after the kill)"
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Result(out, err, process.returncode, wall, cpu, timed_out)


NATIVE_SETUP = r"""
set -e
root=$1 nofile=$2 caps=$3 cwd=$4 binds=$5; shift 5
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"; ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"; ln -s fd/1 "$root/dev/stdout"; ln -s fd/2 "$root/dev/stderr"
for node in null zero full random urandom tty; do : >"$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
for bind in $binds; do mkdir -p "$root${bind#*:}"; mount --bind "${bind%%:*}" "$root${bind#*:}"; done
hostname sbx
python3 - <<'UP'
import fcntl, socket, struct
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
UP
ulimit -n "$nofile"
cd "$root"
exec setsid setpriv --inh-caps=-all --bounding-set="$caps" -- chroot "$root" /usr/bin/env --chdir="$cwd" -i "$@"
"""


class Native:
    """The comparison: namespaces and a chroot by util-linux, the same capabilities, limits and environment."""
    name = "native"

    def __init__(self, root):
        self.root = root

    def argv(self, argv, binds=(), cwd="/root", environment=None):
        env = dict(ENVIRONMENT, **(environment or {}))
        caps = "-all," + ",".join("+" + c for c in CAPABILITIES)
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--",
                "sh", "-c", NATIVE_SETUP, "sh", self.root, str(NOFILE), caps, cwd, " ".join("%s:%s" % b for b in binds),
                *("%s=%s" % kv for kv in env.items()), *argv]

    def run(self, argv, stdin=b"", timeout=120, **options):
        return run_host(self.argv(argv, **options), stdin, timeout)

    def close(self):
        pass


def oci_config(root, argv, binds=(), cwd="/root", environment=None, cgroup=None, terminal=False):
    """A config.json as an engine would write it, for one command in the root filesystem."""
    caps = ["CAP_" + c.upper() for c in CAPABILITIES]
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ]
    for source, target in binds:
        mounts.append({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rw"]})
    env = dict(ENVIRONMENT, **(environment or {}))
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": list(argv), "cwd": cwd,
            "env": ["%s=%s" % kv for kv in env.items()],
            "capabilities": {k: caps for k in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": NOFILE, "soft": NOFILE}],
        },
        "root": {"path": root, "readonly": False},
        "hostname": "sbx",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount")]},
    }
    if cgroup:
        config["linux"]["cgroupsPath"] = cgroup
    return config


class Oci:
    """A runtime with runc's command line. `command` is the program and its global options."""
    counter = 0

    def __init__(self, name, command, root):
        self.name, self.command, self.root = name, list(command), root
        self.bundle = tempfile.mkdtemp(prefix="sbx-bundle-")

    def prepare(self, argv, change=None, **options):
        """Writes the bundle; returns the container's id."""
        Oci.counter += 1
        self.id = "t%d-%s-%d" % (os.getpid(), re.sub(r"\W", "", self.name), Oci.counter)
        config = oci_config(self.root, argv, cgroup="/" + self.id, **options)
        if change:
            change(config)
        with open(os.path.join(self.bundle, "config.json"), "w") as f:
            json.dump(config, f)
        return self.id

    def run(self, argv, stdin=b"", timeout=120, **options):
        container = self.prepare(argv, **options)
        return run_host([*self.command, "run", "--bundle", self.bundle, container], stdin, timeout,
                        on_timeout=lambda: self.delete(container))

    def call(self, *arguments, timeout=30):
        """Runs one of the runtime's commands, for example call("kill", id, "KILL")."""
        return run_host([*self.command, *arguments], b"", timeout)

    def delete(self, container):
        return self.call("delete", "--force", container)

    def close(self):
        shutil.rmtree(self.bundle, ignore_errors=True)


def add_paths(parser):
    """The options every test program here has."""
    parser.add_argument("--sbx", default=os.path.join(REPO, "build/sbx"), help="the sbx program (default build/sbx)")
    parser.add_argument("--rootfs", help="a clean root filesystem (default: made and cached by scripts/make-rootfs)")


def parse_arguments(doc):
    """Those of a program that has no others."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_paths(parser)
    return parser.parse_args()


def open_boxes(arguments, names=("native", "sbx")):
    """The working root and one box for each name, in it."""
    private_mounts()
    root = WorkRoot(arguments.rootfs or cached_rootfs())
    made = {"native": lambda: Native(root.path),
            "sbx": lambda: Oci("sbx", [os.path.realpath(arguments.sbx)], root.path)}
    return root, [made[n]() if n in made else Oci(n, [n], root.path) for n in names]

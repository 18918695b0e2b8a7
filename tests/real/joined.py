#!/usr/bin/env python3
"""Containers that share a pid namespace (linux.namespaces with the path of another's).

Under sbx the second one joins the first one's sandbox: one kernel, and each container its own files, network, names,
control group and life. --runtime runs the same with another runtime, whose answers these are.
"""
import argparse
import os
import shutil
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402
import json  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--runtime", help="another runtime than --sbx")
parser.add_argument("cases", nargs="*", help="only these")
box.add_paths(parser)
arguments = parser.parse_args()
failed = 0


class Failed(Exception):
    pass


def expect(what, got, wanted):
    if got != wanted:
        raise Failed("%s: %r, not %r" % (what, got, wanted))


def until(what, condition):
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise Failed("not in time: " + what)
        time.sleep(0.02)


class Group:
    """The first container, and makers of those that join it."""

    def __init__(self, runtime, argv=("sleep", "1000"), **options):
        self.runtime, self.made = runtime, []
        self.first = self.start(argv, **options)
        self.pid = self.state(self.first)["pid"]

    def state(self, container):
        text = self.runtime.call("state", container).stdout
        return json.loads(text) if text else None

    def status(self, container):
        return self.state(container)["status"]

    def create(self, argv, share=(), **options):
        change = options.pop("change", None)
        joins = bool(self.made)

        def with_paths(config):
            for n in config["linux"]["namespaces"]:
                if joins and n["type"] in ("pid", *share):
                    n["path"] = "/proc/%d/ns/%s" % (self.pid, {"network": "net"}.get(n["type"], n["type"]))
            if "uts" in share:
                del config["hostname"]
            if change:
                change(config)
        container = self.runtime.prepare(argv, change=with_paths, **options)
        self.made.append(container)
        result = self.runtime.call("create", "--bundle", self.runtime.bundle, container)
        return container, result

    def start(self, argv, **options):
        container, result = self.create(argv, **options)
        if result.status == 0:
            result = self.runtime.call("start", container)
        if result.status != 0:
            raise Failed("start: %s" % result.stderr.decode())
        return container

    def run(self, argv, share=(), stdin=b"", **options):
        """In the foreground: what it prints and its exit status."""
        container, result = None, None
        change = options.pop("change", None)

        def with_paths(config):
            for n in config["linux"]["namespaces"]:
                if n["type"] in ("pid", *share):
                    n["path"] = "/proc/%d/ns/%s" % (self.pid, {"network": "net"}.get(n["type"], n["type"]))
            if change:
                change(config)
        result = self.runtime.run(argv, stdin=stdin, timeout=60, change=with_paths, **options)
        return result.stdout.decode(), result.stderr.decode(), result.status

    def exec(self, container, *argv):
        r = self.runtime.call("exec", container, *argv)
        return r.stdout.decode(), r.status

    def close(self):
        for container in reversed(self.made):
            self.runtime.delete(container)


def processes(group):
    """One list of processes, in every container; each its own files and names."""
    out, err, status = group.run(["sh", "-c", "cat /mine; hostname; cat /proc/1/comm; cat /proc/1/root/mine; "
                                  "readlink /proc/1/root; kill -0 1 && echo reached; grep -c . /proc/1/environ; exit 7"],
                                 binds=[(group.b, "/mine")], change=lambda c: c.update(hostname="second"))
    expect("output", (out, err, status), ("b\nsecond\nsleep\na\n/\nreached\n1\n", "", 7))


def signals(group):
    other = group.start(["sleep", "1000"])
    out, status = group.exec(group.first, "sh", "-c", "sleep 1001 & wait $!; echo $?; echo first")
    del out, status
    out, _, _ = group.run(["sh", "-c", "for p in /proc/[0-9]*; do [ \"$(cat $p/cmdline 2>/dev/null | tr '\\0' ' ')\" = "
                           "'sleep 1000 ' ] && [ ${p#/proc/} != 1 ] && kill -TERM ${p#/proc/} && echo killed; done"])
    expect("kill", out, "killed\n")
    until("the end of the killed one", lambda: group.status(other) == "stopped")
    expect("the first", group.status(group.first), "running")


def signals_cross(group):
    """A process of one container ends by a signal from another."""
    other = group.start(["sleep", "1000"])
    out, _, _ = group.run(["sh", "-c", "for p in /proc/[0-9]*; do [ ${p#/proc/} != 1 ] && grep -qa '^sleep' $p/cmdline "
                           "&& kill -TERM ${p#/proc/} && echo killed; done; kill -KILL 1; echo $?"])
    expect("kill", out, "killed\n0\n")
    until("the end of the killed one", lambda: group.status(other) == "stopped")
    expect("the first, whose init nobody inside can kill", group.status(group.first), "running")


SERVER = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", 80)); s.listen(8)
a = socket.socket(socket.AF_UNIX); a.bind("\\0name"); a.listen(8)
open("/ready/" + sys.argv[1], "w").close()
while True:
    c, _ = s.accept(); c.sendall(sys.argv[1].encode()); c.close()
"""
CLIENT = """
import socket
for family, address in (socket.AF_INET, ("127.0.0.1", 80)), (socket.AF_UNIX, "\\0name"):
    s = socket.socket(family)
    try:
        s.connect(address); print("connected", s.recv(100).decode() if family == socket.AF_INET else "")
    except OSError as e:
        print(e.strerror)
print(len(socket.if_nameindex()), open("/proc/net/unix").read().count("@name"))
p = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print(p.proto)
"""


def networks(group):
    """Each its own network, or the first one's where its path is given: addresses, ports, abstract names."""
    ready = [(group.directory, "/ready")]
    group.start(["python3", "-c", SERVER, "one"], share=("network",), binds=ready)
    until("the server", lambda: os.path.exists(os.path.join(group.directory, "one")))
    out, err, _ = group.run(["python3", "-c", CLIENT])
    expect("in its own", out, "Connection refused\nConnection refused\n1 0\n1\n")
    out, err, _ = group.run(["python3", "-c", CLIENT], share=("network",))
    expect("in the shared one", out, "connected one\nconnected \n1 1\n1\n")
    # The same port and name a second time, in another network.
    second = group.start(["python3", "-c", SERVER, "two"], binds=ready)
    until("the second server", lambda: os.path.exists(os.path.join(group.directory, "two")))
    out, status = group.exec(second, "python3", "-c", CLIENT)
    expect("in that network", out, "connected two\nconnected \n1 1\n1\n")


def names(group):
    """ipc and uts: own ones, or the first one's."""
    make = "import sysv" if False else "ipcmk -Q >/dev/null; ipcs -q | grep -c 0x"
    out, _ = group.exec(group.first, "sh", "-c", make)
    expect("a queue", out, "1\n")
    out, err, _ = group.run(["sh", "-c", "ipcs -q | grep -c 0x; hostname"])
    expect("own", out, "0\nsbx\n")
    out, err, _ = group.run(["sh", "-c", "ipcs -q | grep -c 0x; hostname"], share=("ipc", "uts"),
                            change=lambda c: c.pop("hostname"))
    expect("shared", out, "1\nsbx\n")


def ends(group):
    """Who ends, and who does not."""
    # Left-over processes of a container go with its init's end at the latest when it is deleted.
    left = group.start(["sh", "-c", "setsid sleep 2002 & exit 5"])
    until("its end", lambda: group.status(left) == "stopped")
    expect("delete", group.runtime.call("delete", left).status, 0)
    until("no process left", lambda: "2002" not in group.exec(group.first, "sh", "-c", "cat /proc/[0-9]*/cmdline")[0])
    # kill --all of one is not for the others.
    other = group.start(["sleep", "1000"])
    expect("kill --all", group.runtime.call("kill", "--all", other, "KILL").status, 0)
    until("its end", lambda: group.status(other) == "stopped")
    expect("the first", group.status(group.first), "running")
    # The host's process of the container dies.
    other = group.start(["sleep", "3003"])
    os.kill(group.state(other)["pid"], 9)
    until("its end", lambda: group.status(other) == "stopped")
    group.runtime.delete(other)
    until("no process left", lambda: "3003" not in group.exec(group.first, "sh", "-c", "cat /proc/[0-9]*/cmdline")[0])
    # The first one's end is everybody's.
    process = box.subprocess.Popen([*group.runtime.command, "run", "--bundle", bundle_of(group, ["sleep", "1000"]),
                                    "%s-f" % group.first], stdin=box.subprocess.DEVNULL)
    group.made.append("%s-f" % group.first)
    until("start", lambda: (group.state("%s-f" % group.first) or {}).get("status") == "running")
    expect("kill", group.runtime.call("kill", group.first, "KILL").status, 0)
    expect("its exit status", process.wait(30), 137)
    until("the first one's end", lambda: group.status(group.first) == "stopped")


def bundle_of(group, argv):
    def change(config):
        for n in config["linux"]["namespaces"]:
            if n["type"] == "pid":
                n["path"] = "/proc/%d/ns/pid" % group.pid
    group.runtime.prepare(argv, change=change)
    return group.runtime.bundle


def execs(group):
    other = group.start(["sleep", "1000"], binds=[(group.b, "/mine")], change=lambda c: c.update(hostname="second"))
    expect("exec", group.exec(other, "sh", "-c", "cat /mine; hostname; tr '\\0' ' ' </proc/1/cmdline; exit 4"),
           ("b\nsecond\nsleep 1000 ", 4))
    expect("exec of nothing", group.exec(other, "/nonexistent")[1] != 0, True)
    lines = group.runtime.call("ps", "--format", "json", other).stdout
    host = json.loads(lines)
    mine = open("/proc/%d/cgroup" % host[0]).read()
    expect("ps --format json: %s %s" % (host, mine), other in mine, True)
    expect("a command that is not there",
           b"no such file or directory" in group.create(["/nonexistent"])[1].stderr, True)
    expect("nothing is left of it", group.state(group.made[-1]), None)


def terminals(group):
    out, err, status = group.run(["script", "-qec", "tty; stty size", "/dev/null"])
    expect("a terminal of its own", (out.replace("\r", ""), status), ("/dev/pts/0\n0 0\n", 0))


def many(group):
    """Nothing of one that was is kept."""
    sentry = "/proc/%d/fd" % group.pid
    group.run(["true"])
    before = len(os.listdir(sentry))
    for _ in range(12):
        out, err, status = group.run(["sh", "-c", "ls -R /etc >/dev/null; echo $0", "x"])
        expect("output", (out, err, status), ("x\n", "", 0))
    until("as many descriptors as before (%d)" % before, lambda: len(os.listdir(sentry)) <= before + 2)


def not_started(group):
    container, result = group.create(["true"])
    del container
    if arguments.runtime is None:
        expect("create", b"has not started" in result.stderr, True)


CASES = [processes, signals_cross, networks, names, execs, ends, terminals, many, not_started]

box.private_mounts()
clean = arguments.rootfs or box.cached_rootfs()
with box.WorkRoot(clean) as root, tempfile.TemporaryDirectory() as directory:
    os.chmod(directory, 0o755)
    command = [arguments.runtime] if arguments.runtime else [os.path.realpath(arguments.sbx)]
    for name in "ab":
        with open(os.path.join(directory, name), "w") as f:
            f.write(name + "\n")
    for case in CASES:
        if arguments.cases and case.__name__ not in arguments.cases:
            continue
        runtime = box.Oci("joined", command, root.path)
        group = Group.__new__(Group)
        group.runtime, group.made = runtime, []
        group.directory, group.b = directory, os.path.join(directory, "b")
        try:
            argv, binds = ["sleep", "1000"], [(os.path.join(directory, "a"), "/mine")]
            if case is not_started:
                group.first, _ = group.create(argv, binds=binds)
            else:
                group.first = group.start(argv, binds=binds)
            group.pid = group.state(group.first)["pid"]
            case(group)
            print("ok   %s" % case.__name__)
        except Failed as error:
            failed += 1
            print("FAIL %s: %s" % (case.__name__, error))
        finally:
            group.close()
            runtime.close()
    shutil.rmtree(os.path.join(directory, "ready"), ignore_errors=True)
sys.exit(failed != 0)

#!/usr/bin/env python3
"""Containers that share a pid namespace (linux.namespaces with the path of another's).

Under sbx the second one joins the first one's sandbox: one kernel, and each container its own files, network, names,
control group and life. --runtime runs the same with another runtime, whose answers these are.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402

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

    def __init__(self, runtime, directory, started=True):
        self.runtime, self.directory, self.made, self.pid = runtime, directory, [], None
        self.a, self.b = (os.path.join(directory, name) for name in "ab")
        self.first, error = self.create(["sleep", "1000"], binds=[(self.a, "/mine")])
        if error:
            raise Failed("create: " + error)
        if started:
            self.call("start", self.first)
        self.pid = self.state(self.first)["pid"]

    def call(self, *what):
        result = self.runtime.call(*what)
        if result.status != 0:
            raise Failed("%s: %s" % (" ".join(what), result.stderr.decode()))
        return result.stdout.decode()

    def state(self, container):
        text = self.runtime.call("state", container).stdout
        return json.loads(text) if text else None

    def status(self, container):
        return self.state(container)["status"]

    def joining(self, share=(), change=None):
        """What makes of a configuration that of one which joins: namespaces by path."""
        def changed(config):
            for n in config["linux"]["namespaces"]:
                if self.pid and n["type"] in ("pid", *share):
                    n["path"] = "/proc/%d/ns/%s" % (self.pid, {"network": "net"}.get(n["type"], n["type"]))
            if change:
                change(config)
        return changed

    def create(self, argv, share=(), change=None, **options):
        """The id, and what went wrong."""
        container = self.runtime.prepare(argv, change=self.joining(share, change), **options)
        self.made.append(container)
        # The container's own streams: nobody waits for their end.
        with open(os.path.join(self.runtime.bundle, "errors"), "w+") as errors:
            status = subprocess.call([*self.runtime.command, "create", "--bundle", self.runtime.bundle, container],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
            errors.seek(0)
            return container, errors.read() if status != 0 else ""

    def start(self, argv, **options):
        container, error = self.create(argv, **options)
        if error:
            raise Failed("create: " + error)
        self.call("start", container)
        return container

    def run(self, argv, share=(), change=None, **options):
        """In the foreground: what it prints, and its exit status."""
        r = self.runtime.run(argv, timeout=60, change=self.joining(share, change), **options)
        return r.stdout.decode(), r.stderr.decode(), r.status

    def exec(self, container, *argv):
        r = self.runtime.call("exec", container, *argv)
        return r.stdout.decode(), r.status

    def running(self, text):
        """A process with this in its command line, as the first container sees it."""
        script = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
        return text in self.exec(self.first, "sh", "-c", script)[0].replace(script, "")

    def close(self):
        for container in reversed(self.made):
            self.runtime.delete(container)


def processes(group):
    """One list of processes, in every container; each its own files and names."""
    out, err, status = group.run(["sh", "-c", "cat /mine; hostname; cat /proc/1/comm; cat /proc/1/root/mine; "
                                  "readlink /proc/1/root; kill -0 1 && echo reached; exit 7"],
                                 binds=[(group.b, "/mine")], change=lambda c: c.update(hostname="second"))
    expect("output", (out, err, status), ("b\nsecond\nsleep\na\n/\nreached\n", "", 7))


def signals(group):
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
print(len(socket.if_nameindex()), "@name" in open("/proc/net/unix").read())
p = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print(p.proto)
"""


def networks(group):
    """Each its own network, or the first one's where its path is given: addresses, ports, abstract names."""
    ready = [(group.directory, "/ready")]
    group.start(["python3", "-c", SERVER, "one"], share=("network",), binds=ready)
    until("the server", lambda: os.path.exists(os.path.join(group.directory, "one")))
    out, err, _ = group.run(["python3", "-c", CLIENT])
    expect("in its own", out, "Connection refused\nConnection refused\n1 False\n1\n")
    out, err, _ = group.run(["python3", "-c", CLIENT], share=("network",))
    expect("in the shared one", out, "connected one\nconnected \n1 True\n1\n")
    # The same port and name a second time, in another network.
    second = group.start(["python3", "-c", SERVER, "two"], binds=ready)
    until("the second server", lambda: os.path.exists(os.path.join(group.directory, "two")))
    out, status = group.exec(second, "python3", "-c", CLIENT)
    expect("in that network", out, "connected two\nconnected \n1 True\n1\n")


def names(group):
    """ipc and uts: own ones, or the first one's."""
    out, _ = group.exec(group.first, "sh", "-c", "ipcmk -Q >/dev/null; ipcs -q | grep -c 0x")
    expect("a queue", out, "1\n")
    out, err, _ = group.run(["sh", "-c", "ipcs -q | grep -c 0x; hostname"])
    expect("own", out, "0\nsbx\n")
    out, err, _ = group.run(["sh", "-c", "ipcs -q | grep -c 0x; hostname"], share=("ipc", "uts"),
                            change=lambda c: c.pop("hostname"))
    expect("shared", out, "1\nsbx\n")


def ends(group):
    """Who ends, and who does not."""
    left = group.start(["sh", "-c", "setsid sleep 2002 & exit 5"])
    until("its end", lambda: group.status(left) == "stopped")
    group.call("delete", left)
    until("no process left", lambda: not group.running("sleep 2002"))
    other = group.start(["sleep", "1000"])
    group.call("kill", "--all", other, "KILL")
    until("its end", lambda: group.status(other) == "stopped")
    expect("the first", group.status(group.first), "running")
    other = group.start(["sleep", "3003"])
    expect("it runs", group.running("sleep 3003"), True)
    os.kill(group.state(other)["pid"], signal.SIGKILL)
    until("its end", lambda: group.status(other) == "stopped")
    group.call("delete", other)
    until("no process left", lambda: not group.running("sleep 3003"))
    # The first one's end is everybody's.
    container = group.runtime.prepare(["sleep", "1000"], change=group.joining())
    group.made.append(container)
    process = subprocess.Popen([*group.runtime.command, "run", "--bundle", group.runtime.bundle, container],
                               stdin=subprocess.DEVNULL)
    until("start", lambda: (group.state(container) or {}).get("status") == "running")
    time.sleep(0.5)  # its runtime hears of the start a little later than we do, and says so if it cannot any more
    group.call("kill", group.first, "KILL")
    expect("its exit status", process.wait(30), 137)
    until("the first one's end", lambda: group.status(group.first) == "stopped")


def execs(group):
    other = group.start(["sleep", "1000"], binds=[(group.b, "/mine")], change=lambda c: c.update(hostname="second"))
    expect("exec", group.exec(other, "sh", "-c", "cat /mine; hostname; exit 4"), ("b\nsecond\n", 4))
    expect("exec of nothing", group.exec(other, "/nonexistent")[1] != 0, True)
    host = json.loads(group.call("ps", "--format", "json", other))
    with open("/proc/%d/cgroup" % host[0]) as f:
        expect("the control group of a process", other in f.read(), True)
    container, error = group.create(["/nonexistent"])
    expect("a command that is not there: " + error, "no such file or directory" in error, True)
    expect("what is left of it", group.state(container), None)


def limits(group):
    """Each its own number of processes."""
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done 2>/dev/null; wait"
    bomb = group.start(["bash", "-c", script], change=lambda c: c["linux"].update(resources={"pids": {"limit": 6}}))
    del bomb
    out, err, status = group.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0 & done; wait; echo all"])
    expect("the other one", (out, status), ("all\n", 0))
    count = "cat /proc/[0-9]*/comm | grep -c sleep"
    sleeps = int(group.exec(group.first, "sh", "-c", count)[0])
    expect("processes of the limited one: %d" % sleeps, 1 < sleeps <= 7, True)  # the first one's own, too


def terminals(group):
    out, _, status = group.run(["script", "-qec", "tty", "/dev/null"])
    expect("a terminal of its own", (out.replace("\r", ""), status), ("/dev/pts/0\n", 0))


def many(group):
    """Nothing of one that was is kept."""
    if arguments.runtime:
        return
    descriptors = "/proc/%d/fd" % group.pid
    group.run(["true"])
    time.sleep(0.5)  # the next stubs are made in the background, and have theirs
    before = len(os.listdir(descriptors))
    for _ in range(12):
        expect("output", group.run(["sh", "-c", "ls -R /etc >/dev/null; echo $0", "x"]), ("x\n", "", 0))
    until("no more descriptors than %d" % before, lambda: len(os.listdir(descriptors)) <= before)


def not_started(group):
    """Only one whose namespace has its init can be joined."""
    error = group.create(["true"])[1]
    expect("create: " + error, "has not started" in error, True)


CASES = [processes, signals, networks, names, execs, ends, limits, terminals, many] + ([] if arguments.runtime else [not_started])

box.private_mounts()
with box.WorkRoot(arguments.rootfs or box.cached_rootfs()) as root:
    for case in CASES:
        if arguments.cases and case.__name__ not in arguments.cases:
            continue
        command = [arguments.runtime] if arguments.runtime else [os.path.realpath(arguments.sbx)]
        runtime, group = box.Oci("joined", command, root.path), None
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            for name in "ab":
                with open(os.path.join(directory, name), "w") as f:
                    f.write(name + "\n")
            try:
                group = Group(runtime, directory, started=case is not not_started)
                case(group)
                print("ok   %s" % case.__name__)
            except Failed as error:
                failed += 1
                print("FAIL %s: %s" % (case.__name__, error))
            finally:
                if group:
                    group.close()
                runtime.close()
sys.exit(failed != 0)

#!/usr/bin/env python3
"""AF_UNIX sockets of the host that a bind mount makes visible: reached where the configuration says so, and nowhere else.

A server here listens on a socket; a program in the container connects to it by the bind mount of the socket itself and
by that of its directory, sends it 2 MB and reads them back. Then a server in a container binds a socket in a mounted
directory, and programs here and in a second container connect to it.
"""
import os
import socket
import struct
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402

arguments = box.parse_arguments(__doc__)

CLIENT = r"""
import select, socket
for path in "/run/mounted.sock", "/run/dir/s":
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(path)
    except OSError as e:
        print(path, e.strerror)
        continue
    print(path, s.getpeername(), s.makefile("r").readline().strip())
    data, got, sent = bytes(range(256)) * 8192, b"", 0
    s.setblocking(False)
    while len(got) < len(data):
        r, w, _ = select.select([s], [s] if sent < len(data) else [], [], 10)
        if not r and not w:
            break
        if w:
            sent += s.send(data[sent:sent + 300000])
        if r:
            got += s.recv(100000)
    s.shutdown(socket.SHUT_WR)
    s.setblocking(True)
    print(got == data, s.recv(1))
"""


def serve(listener):
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        _, uid, gid = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        client.sendall(b"seen as %d %d\n" % (uid, gid))
        while True:
            data = client.recv(65536)
            if not data:
                break
            client.sendall(data)
        client.close()


REACHED = "/run/mounted.sock /run/mounted.sock seen as %s\nTrue b''\n"
REFUSED = "/run/mounted.sock Connection refused\n"
IN_DIR = "/run/dir/s /run/dir/s seen as %s\nTrue b''\n"
NOT_IN_DIR = "/run/dir/s Connection refused\n"
CASES = [
    ("by default", None, (0, 0), REACHED % "0 0" + NOT_IN_DIR),
    ("as a user", None, (1000, 1001), REACHED % "1000 1001" + NOT_IN_DIR),
    ("none", "none", (0, 0), REFUSED + NOT_IN_DIR),
    ("mounted", "mounted", (0, 0), REACHED % "0 0" + NOT_IN_DIR),
    ("all", "all", (0, 0), REACHED % "0 0" + IN_DIR % "0 0"),
]

failed = 0
root, (sbx,) = box.open_boxes(arguments, ("sbx",))
with root, tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)
    os.chmod(directory, 0o755)
    listener.listen(4)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    for name, policy, (uid, gid), expected in CASES:
        def change(config):
            config["process"]["user"] = {"uid": uid, "gid": gid}
            if policy is not None:
                config["annotations"] = {"org.sbx.host-sockets": policy}
        got = sbx.run(["python3", "-c", CLIENT], binds=[(path, "/run/mounted.sock"), (directory, "/run/dir")],
                      timeout=60, change=change)
        text = got.stdout.decode()
        same = got.status == 0 and text == expected
        print("%s %s" % ("ok  " if same else "FAIL", name))
        if not same:
            failed += 1
            print("exit status %s\n%s%s\nexpected\n%s" % (got.status, text, got.stderr.decode(), expected))
    bad = sbx.run(["true"], timeout=60, change=lambda c: c.update(annotations={"org.sbx.host-sockets": "some"}))
    if bad.status == 0 or b"org.sbx.host-sockets" not in bad.stderr:
        failed += 1
        print("FAIL a policy that does not exist: %s %s" % (bad.status, bad.stderr.decode()))
    listener.close()

    # The reverse.
    SERVER = r"""
import os, socket
s = socket.socket(socket.AF_UNIX)
os.umask(0o027)
s.bind("/run/dir/own")
s.listen(4)
open("/run/dir/ready", "w").close()
for _ in range(3):
    c, _ = s.accept()
    c.sendall(b"served " + c.recv(100))
    c.close()
print("done")
"""
    INSIDE = r"""
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/dir/own")
s.sendall(b"a container")
print(s.recv(100).decode())
"""

    def policy_of(policy):
        return lambda config: config.update(annotations={"org.sbx.host-sockets": policy})

    def ask(text):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(os.path.join(directory, "own"))
        s.sendall(text)
        return s.recv(100)

    result = []
    server = threading.Thread(target=lambda: result.append(
        sbx.run(["python3", "-c", SERVER], binds=[(directory, "/run/dir")], timeout=60, change=policy_of("all"))))
    server.start()
    wait_until = time.monotonic() + 30
    while not os.path.exists(os.path.join(directory, "ready")) and time.monotonic() < wait_until:
        time.sleep(0.02)
    try:
        made = os.stat(os.path.join(directory, "own"))
        answers = [oct(made.st_mode), ask(b"the host"), ask(b"the host again")]
    except OSError as error:
        answers = [str(error)]
    other = sbx.run(["python3", "-c", INSIDE], binds=[(directory, "/run/dir")], timeout=60, change=policy_of("all"))
    answers.append(other.stdout)
    server.join()
    answers.append(result[0].stdout)
    wanted = ["0o140750", b"served the host", b"served the host again", b"served a container\n", b"done\n"]
    print("%s a server in the container" % ("ok  " if answers == wanted else "FAIL"))
    if answers != wanted:
        failed += 1
        print("%s\n%s\n%s" % (answers, other.stderr.decode(), result[0].stderr.decode()))

    # Not by default: the name is the container's own, and nobody here gets through it.
    NOT_OUTSIDE = r"""
import os, socket
s = socket.socket(socket.AF_UNIX)
s.bind("/run/dir/private")
s.listen(1)
c = socket.socket(socket.AF_UNIX)
c.connect("/run/dir/private")
print("inside")
"""
    got = sbx.run(["python3", "-c", NOT_OUTSIDE], binds=[(directory, "/run/dir")], timeout=60)
    try:
        outside = socket.socket(socket.AF_UNIX)
        outside.connect(os.path.join(directory, "private"))
        refused = False
    except ConnectionRefusedError:
        refused = True
    if got.stdout != b"inside\n" or not refused:
        failed += 1
        print("FAIL a socket that stays inside: %s %s %s" % (got.stdout, got.stderr.decode(), refused))
sys.exit(failed != 0)

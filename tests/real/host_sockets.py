#!/usr/bin/env python3
"""AF_UNIX sockets of the host that a bind mount makes visible: reached where the configuration says so, and nowhere else.

A server here listens on a socket; a program in the container connects to it by the bind mount of the socket itself and
by that of its directory, sends it 2 MB and reads them back.
"""
import argparse
import os
import socket
import struct
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
box.add_paths(parser)
arguments = parser.parse_args()

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
sys.exit(failed != 0)

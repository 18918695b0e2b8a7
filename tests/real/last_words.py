#!/usr/bin/env python3
"""What the last process of a container has written to a TCP connection arrives, however it ends and whatever room there
was: the writes of an event loop are done, for the guest, before the host has them.

A server here talks with a program in the container, which is in the host's network; then it reads on slowly.
"""
import os
import socket
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402

arguments = box.parse_arguments(__doc__)

TALK = r"""
import os, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
s.connect(("127.0.0.1", %d))
for _ in range(10):
    s.sendall(b"x" * 10)
    assert s.recv(10) == b"x" * 10
"""
LAST = {
    "exits": 's.sendall(b"last"); os._exit(0)',
    "is killed": 's.sendall(b"last"); os.kill(os.getpid(), 9)',
    "leaves a process": 'pid = os.fork()\nif pid == 0:\n    s.sendall(b"last")\n'
                        '    while True: pass\nimport time; time.sleep(0.05); os._exit(0)',
}
FILL = r"""
s.setblocking(False)
sent = 0
try:
    while True:
        sent += s.send(b"y" * %d)
except BlockingIOError:
    pass
os.write(1, b"%%d" %% sent)
os._exit(0)
"""


def serve(listener, got):
    client, _ = listener.accept()
    for _ in range(10):
        client.sendall(client.recv(10, socket.MSG_WAITALL))
    time.sleep(0.3)
    while True:
        data = client.recv(1000)
        if not data:
            break
        got.append(data)
    client.close()


def host_network(config):
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]


failed = 0
root, (sbx,) = box.open_boxes(arguments, ("sbx",))
with root:
    cases = [(name, text, lambda out: b"last") for name, text in LAST.items()]
    cases += [("fills with %d" % n, FILL % n, lambda out: b"y" * int(out or b"0")) for n in (100, 3000, 16000, 50000)]
    for name, text, wanted in cases:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        got = []
        server = threading.Thread(target=serve, args=(listener, got), daemon=True)
        server.start()
        run = sbx.run(["python3", "-c", TALK % listener.getsockname()[1] + text], timeout=60, change=host_network)
        server.join(20)
        listener.close()
        same = not server.is_alive() and b"".join(got) == wanted(run.stdout) and not run.stderr
        print("%s %s" % ("ok  " if same else "FAIL", name))
        if not same:
            failed += 1
            print("got %d bytes, not %d: %s" % (len(b"".join(got)), len(wanted(run.stdout)), run.stderr.decode()))
sys.exit(failed != 0)

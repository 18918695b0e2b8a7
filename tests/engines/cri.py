#!/usr/bin/python3
"""A small client of the Kubernetes container runtime interface, for the cases of cri_cases.py.

cri.py VERB ...  with $CRI_SOCKET (containerd's), $CRI_STATE (a directory: the ids behind the names used here) and $RT (the
runtime handler). The messages' descriptions come out of the containerd binary itself, which carries them.
"""
import base64
import json
import os
import re
import shutil
import sys
import time
import zlib

import grpc
import websocket
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

SOCKET, STATE, HANDLER = os.environ["CRI_SOCKET"], os.environ["CRI_STATE"], os.environ["RT"]
PACKAGE = "runtime.v1"


def load_messages():
    """The file descriptor of the API among the gzipped ones in containerd's data."""
    cache = os.path.join(STATE, "api.descriptor")
    if not os.path.exists(cache):
        data = open(shutil.which("containerd"), "rb").read()
        for match in re.finditer(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", data):
            try:
                text = zlib.decompressobj(31).decompress(data[match.start():match.start() + 200_000])
            except zlib.error:
                continue
            if text[:40].find(b"\x12\x0a" + PACKAGE.encode()) >= 0 and b"RunPodSandbox" in text:
                with open(cache, "wb") as f:
                    f.write(text)
                break
        else:
            sys.exit("cri.py: no description of the interface in containerd")
    file = descriptor_pb2.FileDescriptorProto.FromString(open(cache, "rb").read())
    del file.dependency[:]  # options of its code generator
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName("%s.%s" % (PACKAGE, name)))
            for name in (m.name for m in file.message_type)}


MESSAGES = load_messages()
CHANNEL = grpc.insecure_channel("unix://" + SOCKET, options=[("grpc.max_receive_message_length", 16 << 20)])


def call(method, request, timeout=60):
    """One call, plain data in and out; on an error its text, and exit."""
    message = json_format.ParseDict(request, MESSAGES[method + "Request"]())
    invoke = CHANNEL.unary_unary("/%s.RuntimeService/%s" % (PACKAGE, method),
                                 request_serializer=lambda m: m.SerializeToString(),
                                 response_deserializer=MESSAGES[method + "Response"].FromString)
    try:
        return json_format.MessageToDict(invoke(message, timeout=timeout), preserving_proto_field_name=True,
                                         including_default_value_fields=True)
    except grpc.RpcError as e:
        sys.exit("%s: %s" % (method, re.sub(r"[0-9a-f]{64}", "ID", e.details())))


def remember(name, value):
    with open(os.path.join(STATE, name), "w") as f:
        f.write(value)


def known(name):
    return open(os.path.join(STATE, name)).read()


def merged(into, more):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merged(into[key], value)
        else:
            into[key] = value
    return into


def pod_config(pod):
    return json.loads(known(pod + ".config"))


def runp(pod, more="{}"):
    config = merged({"metadata": {"name": pod, "uid": pod + "-uid", "namespace": "default"}, "hostname": pod,
                     "log_directory": STATE, "linux": {"security_context": {"namespace_options": {"pid": "CONTAINER"}}}},
                    json.loads(more))
    remember(pod + ".config", json.dumps(config))
    remember(pod, call("RunPodSandbox", {"config": config, "runtime_handler": HANDLER})["pod_sandbox_id"])


def create(pod, name, more, *command):
    config = merged({"metadata": {"name": name}, "image": {"image": "docker.io/library/sbx-test:1"},
                     "command": list(command), "log_path": name + ".log",
                     "linux": {"security_context": {"namespace_options": {"pid": "CONTAINER"}}}}, json.loads(more))
    if os.path.exists(os.path.join(STATE, name + ".log")):
        os.unlink(os.path.join(STATE, name + ".log"))
    remember(name, call("CreateContainer", {"pod_sandbox_id": known(pod), "config": config,
                                            "sandbox_config": pod_config(pod)})["container_id"])


def start(name):
    call("StartContainer", {"container_id": known(name)})


def run(pod, name, more, *command):
    create(pod, name, more, *command)
    start(name)


def execsync(name, *command, timeout=0):
    reply = call("ExecSync", {"container_id": known(name), "cmd": list(command), "timeout": timeout})
    for stream in ("stdout", "stderr"):
        sys.stdout.write(base64.b64decode(reply.get(stream, "")).decode(errors="replace"))
    if reply["exit_code"]:
        print("exit code %d" % reply["exit_code"])


def probe(name, seconds, *command):
    execsync(name, *command, timeout=int(seconds))


def status(name, *fields):
    reply = call("ContainerStatus", {"container_id": known(name)})["status"]
    print(" ".join(str(reply[f]) for f in fields))


def wait(name):
    for _ in range(300):
        if call("ContainerStatus", {"container_id": known(name)})["status"]["state"] == "CONTAINER_EXITED":
            return
        time.sleep(0.1)
    print("never: exit of %s" % name)


def stats(name):
    s = call("ContainerStats", {"container_id": known(name)})["stats"]
    print("cpu", int(s["cpu"]["usage_core_nano_seconds"]["value"]) > 0, "memory",
          int(s["memory"]["working_set_bytes"]["value"]) > 0)


def address(pod):
    print(call("PodSandboxStatus", {"pod_sandbox_id": known(pod)})["status"]["network"]["ip"])


def ready(pod):
    print(call("PodSandboxStatus", {"pod_sandbox_id": known(pod)})["status"]["state"])


def update(name, resources):
    call("UpdateContainerResources", {"container_id": known(name), "linux": json.loads(resources)})


def logs(name):
    for line in open(os.path.join(STATE, name + ".log")):
        print(line.split(" ", 1)[1].rstrip("\n"))  # without the time


def stop(name, seconds):
    call("StopContainer", {"container_id": known(name), "timeout": int(seconds)})


def rm(name):
    call("RemoveContainer", {"container_id": known(name)})


def stopp(pod):
    call("StopPodSandbox", {"pod_sandbox_id": known(pod)})


def rmp(pod):
    call("RemovePodSandbox", {"pod_sandbox_id": known(pod)})


def listed():
    for c in sorted(call("ListContainers", {}).get("containers", []), key=lambda c: c["metadata"]["name"]):
        print(c["metadata"]["name"], c["state"])


def clean():
    for pod in call("ListPodSandbox", {}).get("items", []):
        call("StopPodSandbox", {"pod_sandbox_id": pod["id"]})
        call("RemovePodSandbox", {"pod_sandbox_id": pod["id"]})


def connect(url, protocol):
    return websocket.create_connection(re.sub("^http", "ws", url), subprotocols=[protocol], timeout=30)


def stream(url, stdin, terminal=False):
    """Channels 1 and 2 to standard output until the error channel (3) says how it ended."""
    peer = connect(url, "v4.channel.k8s.io")
    if stdin:
        peer.send_binary(b"\0" + stdin.encode())
    while True:
        try:
            data = peer.recv()
        except websocket.WebSocketConnectionClosedException:
            return
        if not data:
            return
        data = data if isinstance(data, bytes) else data.encode()
        if data[0] in (1, 2):
            sys.stdout.write(data[1:].decode(errors="replace").replace("\r", ""))
        elif data[0] == 3:
            said = json.loads(data[1:])
            if said.get("status") != "Success":
                print(re.sub(r"[0-9a-f]{64}", "ID", said.get("message", "")))
            return


def execute(name, stdin, *command):
    reply = call("Exec", {"container_id": known(name), "cmd": list(command), "stdin": bool(stdin), "stdout": True,
                          "stderr": True, "tty": False})
    stream(reply["url"], stdin)


def terminal(name, stdin, *command):
    reply = call("Exec", {"container_id": known(name), "cmd": list(command), "stdin": True, "stdout": True, "tty": True})
    stream(reply["url"], stdin)


def attach(name, stdin):
    reply = call("Attach", {"container_id": known(name), "stdin": True, "stdout": True, "stderr": True})
    stream(reply["url"], stdin)


def forward(pod, port, text):
    """Sends a line through a forwarded port, prints the first line that comes back."""
    reply = call("PortForward", {"pod_sandbox_id": known(pod), "port": [int(port)]})
    peer = connect(reply["url"] + "?port=" + port, "v4.channel.k8s.io")
    peer.send_binary(b"\0" + text.encode() + b"\r\n\r\n")
    got = b""
    while b"\n" not in got:
        data = peer.recv()
        if not data:
            break
        if data[0] == 0 and len(data) > 3:  # the first of each channel is the port's number
            got += data[1:]
    print(got.split(b"\n")[0].decode().strip())


VERBS = {f.__name__: f for f in (runp, create, start, run, execsync, probe, status, wait, stats, address, ready, update,
                                 logs, stop, rm, stopp, rmp, listed, clean, attach, forward, terminal)}
VERBS["exec"] = execute
VERBS[sys.argv[1]](*sys.argv[2:])

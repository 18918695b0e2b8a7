"""Private daemons of the engines, each with directories, sockets and networks of its own, and an image in them."""
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time

IMAGE = "sbx-test:1"
BRIDGE, BRIDGE_ADDRESS = "sbxtest0", "172.29.199.1/24"


class Missing(Exception):
    """This machine cannot run the engine; why."""


def wait_until(what, done, seconds=30):
    end = time.time() + seconds
    while not done():
        if time.time() > end:
            raise Missing("%s did not come up in %d s" % (what, seconds))
        time.sleep(0.1)


def quiet(*argv, **options):
    return subprocess.call(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options) == 0


class Daemon:
    """A process group that ends with the test, and its scratch directory."""

    def __init__(self, name):
        self.base = tempfile.mkdtemp(prefix="sbx-%s-" % name)
        os.chmod(self.base, 0o755)
        self.process = None

    def start(self, argv, environment=None):
        log = open(os.path.join(self.base, "log"), "wb")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                        env=dict(os.environ, **(environment or {})))

    def log(self):
        try:
            return open(os.path.join(self.base, "log"), errors="replace").read()[-2000:]
        except OSError:
            return ""

    def close(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for line in reversed(open("/proc/self/mountinfo").read().splitlines()):
            at = line.split()[4]
            if at.startswith(self.base + "/"):
                quiet("umount", "-l", at)
        shutil.rmtree(self.base, ignore_errors=True)


class Docker(Daemon):
    def __init__(self, sbx, root):
        super().__init__("docker")
        self.sbx = sbx
        if shutil.which("dockerd") is None:
            raise Missing("no dockerd")
        quiet("ip", "link", "add", BRIDGE, "type", "bridge")
        quiet("ip", "address", "add", BRIDGE_ADDRESS, "dev", BRIDGE)
        quiet("ip", "link", "set", BRIDGE, "up")
        self.configuration = os.path.join(self.base, "daemon.json")
        self.socket = "unix://%s/docker.sock" % self.base
        self.configure("runc")
        self.start(["dockerd", "--config-file", self.configuration])
        self.environment = {"DOCKER_HOST": self.socket}
        self.tool = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"
        try:
            wait_until("dockerd", lambda: quiet(self.tool, "version", env=dict(os.environ, **self.environment)))
            tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
            ok = quiet(self.tool, "import", "-c", 'CMD ["sh"]', "-", IMAGE, stdin=tar.stdout,
                       env=dict(os.environ, **self.environment))
            if tar.wait() != 0 or not ok:
                raise Missing("docker import failed")
        except Missing as e:
            said = self.log()
            self.close()
            raise Missing("%s; its log ends:\n%s" % (e, said))

    def configure(self, default):
        with open(self.configuration, "w") as f:
            json.dump({"data-root": self.base + "/data", "exec-root": self.base + "/exec", "bridge": BRIDGE,
                       "pidfile": self.base + "/pid", "hosts": [self.socket], "storage-driver": "overlay2",
                       "default-runtime": default, "runtimes": {"sbx": {"path": self.sbx}}}, f)

    def use(self, runtime):
        """Makes it the default, for what has no --runtime: build and compose."""
        self.configure(runtime)
        self.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        return dict(self.environment, RT=runtime, I=IMAGE, D=self.tool)

    PRELUDE = r"""
docker() { $D "$@"; }
run() { docker run --rm --runtime $RT "$@"; }
bg() { docker run -d --runtime $RT "$@" >/dev/null; }
"""

    def prelude(self):
        return self.PRELUDE

    CLEAN = r"""
docker ps -aq | xargs -r docker rm -fv >/dev/null 2>&1; docker network prune -f >/dev/null; docker volume prune -f >/dev/null
"""

    def close(self):
        super().close()
        quiet("ip", "link", "delete", BRIDGE)


class Containerd(Daemon):
    def __init__(self, sbx, root):
        super().__init__("containerd")
        self.sbx = sbx
        if shutil.which("containerd") is None or shutil.which("ctr") is None:
            raise Missing("no containerd")
        with open(self.base + "/config.toml", "w") as f:
            f.write('version = 2\nroot = "%s/root"\nstate = "%s/state"\n'
                    'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s/sock"\n' % ((self.base,) * 3))
        self.start(["containerd", "-c", self.base + "/config.toml"])
        self.ctr = "%s -a %s/sock" % (shutil.which("ctr"), self.base)  # a path: the prelude has a function of the name
        self.root = os.path.join(self.base, "rootfs")
        os.mkdir(self.root)
        for name in ("up", "work"):
            os.mkdir(os.path.join(self.base, name))
        try:
            wait_until("containerd", lambda: quiet(*self.ctr.split(), "version"))
            if not quiet("mount", "-t", "overlay", "-o", "lowerdir=%s,upperdir=%s/up,workdir=%s/work" %
                         (root, self.base, self.base), "overlay", self.root):
                raise Missing("no overlay mount")
        except Missing as e:
            said = self.log()
            self.close()
            raise Missing("%s; its log ends:\n%s" % (e, said))

    def use(self, runtime):
        return {"RT": runtime, "ROOT": self.root, "CTR": self.ctr, "BINARY": self.sbx if runtime == "sbx" else "runc"}

    def prelude(self):
        return r"""
ctr() { $CTR "$@"; }
# run [OPTIONS] ID COMMAND...
run() { ctr run --runtime io.containerd.runc.v2 --runc-binary $BINARY --env PATH=/usr/sbin:/usr/bin:/sbin:/bin "${O[@]}" --rootfs $ROOT "$@"; }
O=()
"""

    CLEAN = r"""
for c in $(ctr task ls -q); do ctr task kill -s KILL $c; sleep 0.3; ctr task rm -f $c; done >/dev/null 2>&1
ctr c ls -q | xargs -r $CTR c rm >/dev/null 2>&1
"""


class Cri(Daemon):
    """containerd with its CRI plugin, a pod network, and both runtimes as handlers."""

    CONFIGURATION = """
version = 2
root = "{base}/root"
state = "{base}/state"
[grpc]
address = "{base}/sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/sbx-pause:1"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{base}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.sbx]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.sbx.options]
BinaryName = "{sbx}"
"""
    NETWORK = {"cniVersion": "0.4.0", "name": "sbxtest", "plugins": [
        {"type": "bridge", "bridge": "sbxtest1", "isGateway": True,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.29.197.0/24"}]], "dataDir": None}},
        {"type": "loopback"}]}

    def __init__(self, sbx, root):
        super().__init__("cri")
        if shutil.which("containerd") is None or not os.path.exists("/usr/lib/cni/bridge"):
            raise Missing("no containerd or no containernetworking-plugins")
        if not quiet("/usr/bin/python3", "-c", "import grpc, google.protobuf, websocket"):
            raise Missing("no python3-grpcio, python3-protobuf or python3-websocket")
        for name in ("cni", "ids", "image"):
            os.mkdir(os.path.join(self.base, name))
        with open(self.base + "/config.toml", "w") as f:
            f.write(self.CONFIGURATION.format(base=self.base, sbx=sbx))
        self.NETWORK["plugins"][0]["ipam"]["dataDir"] = self.base + "/addresses"
        with open(self.base + "/cni/net.conflist", "w") as f:
            json.dump(self.NETWORK, f)
        quiet("iptables", "-I", "FORWARD", "-i", "sbxtest1", "-o", "sbxtest1", "-j", "ACCEPT")  # dockerd's default is DROP
        self.start(["containerd", "-c", self.base + "/config.toml"])
        ctr = [shutil.which("ctr"), "-a", self.base + "/sock", "-n", "k8s.io"]
        try:
            wait_until("containerd", lambda: quiet(*ctr, "version"))
            self.make_image(root)
            tar = subprocess.Popen(["tar", "-C", self.base + "/image", "-c", "."], stdout=subprocess.PIPE)
            ok = quiet(*ctr, "images", "import", "-", stdin=tar.stdout)
            if tar.wait() != 0 or not ok:
                raise Missing("the image could not be imported")
            shutil.rmtree(self.base + "/image")
        except Missing as e:
            said = self.log()
            self.close()
            raise Missing("%s; its log ends:\n%s" % (e, said))

    def make_image(self, root):
        """An archive as `docker save` writes it: one layer, two names (the pause container needs a command of its own)."""
        at = self.base + "/image"
        if subprocess.call(["tar", "-C", root, "-cf", at + "/layer.tar", "."]) != 0:
            raise Missing("tar failed")
        digest = subprocess.check_output(["sha256sum", at + "/layer.tar"], text=True).split()[0]
        manifest = []
        for name, command in (("sbx-test:1", ["sh"]), ("sbx-pause:1", ["sleep", "infinity"])):
            config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
                      "config": {"Cmd": command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}}
            file = name.split(":")[0] + ".json"
            with open(os.path.join(at, file), "w") as f:
                json.dump(config, f)
            manifest.append({"Config": file, "RepoTags": ["docker.io/library/" + name], "Layers": ["layer.tar"]})
        with open(at + "/manifest.json", "w") as f:
            json.dump(manifest, f)

    def use(self, runtime):
        return {"RT": runtime, "CRI_SOCKET": self.base + "/sock", "CRI_STATE": self.base + "/ids",
                "CRI": os.path.join(os.path.dirname(os.path.realpath(__file__)), "cri.py")}

    def prelude(self):
        return 'cri() { /usr/bin/python3 $CRI "$@"; }\n'

    CLEAN = "cri clean"

    def close(self):
        super().close()
        quiet("iptables", "-D", "FORWARD", "-i", "sbxtest1", "-o", "sbxtest1", "-j", "ACCEPT")
        quiet("ip", "link", "delete", "sbxtest1")


class Podman(Daemon):
    # A hard limit this machine may not raise is podman's default.
    CONFIGURATION = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
events_logger = "file"
runtime_supports_json = ["runc", "sbx"]
[network]
default_subnet = "172.29.198.0/24"
"""

    def __init__(self, sbx, root):
        super().__init__("podman")
        if shutil.which("podman") is None:
            raise Missing("no podman")
        with open(self.base + "/containers.conf", "w") as f:
            f.write(self.CONFIGURATION)
        self.sbx = sbx
        self.podman = (shutil.which("podman") + " --root %s/root --runroot %s/run --cgroup-manager=cgroupfs --network-config-dir %s/net" %
                       ((self.base,) * 3))
        self.environment = {"CONTAINERS_CONF": self.base + "/containers.conf"}
        tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
        ok = quiet(*self.podman.split(), "import", "-", IMAGE, stdin=tar.stdout, env=dict(os.environ, **self.environment))
        if tar.wait() != 0 or not ok:
            self.close()
            raise Missing("podman import failed")

    def use(self, runtime):
        binary = self.sbx if runtime == "sbx" else shutil.which("runc") or "/usr/sbin/runc"
        return dict(self.environment, RT=runtime, I="localhost/" + IMAGE, P="%s --runtime %s" % (self.podman, binary))

    def prelude(self):
        return r"""
podman() { $P "$@"; }
run() { podman run --rm "$@"; }
bg() { podman run -d "$@" >/dev/null; }
"""

    CLEAN = r"""
podman pod rm -fa >/dev/null 2>&1; podman rm -fa -t 0 >/dev/null 2>&1; podman volume prune -f >/dev/null 2>&1
"""


class RootlessPodman(Daemon):
    """podman as a user with ranges of ids. The user exists in a mount namespace of the test's own, where /dev/net/tun may
    be opened by all, as on most machines."""
    USER, UID = "sbxtest", 61234

    def __init__(self, sbx, root):
        super().__init__("rootless")
        for needed in ("podman", "newuidmap", "slirp4netns"):
            if shutil.which(needed) is None:
                raise Missing("no %s" % needed)
        self.sbx = sbx
        b, user, uid = self.base, self.USER, self.UID
        for name in ("etc", "home", "run"):
            os.mkdir(os.path.join(b, name))
        for name, line in (("passwd", "%s:x:%d:%d::%s/home:/bin/bash" % (user, uid, uid, b)),
                           ("group", "%s:x:%d:" % (user, uid)), ("subuid", "%s:700000:65536" % user),
                           ("subgid", "%s:700000:65536" % user)):
            with open("/etc/" + name) as old, open("%s/etc/%s" % (b, name), "w") as new:
                new.write(old.read() + line + "\n")
        os.mknod(b + "/tun", 0o666 | stat.S_IFCHR, os.makedev(10, 200))
        os.chmod(b + "/tun", 0o666)
        with open(b + "/containers.conf", "w") as f:
            f.write(Podman.CONFIGURATION)
        os.chmod(b + "/run", 0o700)
        for name in ("home", "run"):
            os.chown(os.path.join(b, name), uid, uid)
        if subprocess.call(["tar", "-C", root, "-cf", b + "/image.tar", "."]) != 0:
            raise Missing("tar failed")
        # podman leaves a process that holds its namespaces, and our standard output: a pipe would never end.
        self.start(["bash", "-c", self.prelude() + "podman import $B/image.tar " + IMAGE], self.use("runc"))
        status = self.process.wait()
        os.unlink(b + "/image.tar")
        if status != 0:
            said = self.log()
            self.close()
            raise Missing("podman import failed: %s" % said)

    def use(self, runtime):
        binary = self.sbx if runtime == "sbx" else shutil.which("runc") or "/usr/sbin/runc"
        return {"RT": runtime, "I": "localhost/" + IMAGE, "B": self.base, "U": str(self.UID), "USER": self.USER,
                "HOME": self.base + "/home", "XDG_RUNTIME_DIR": self.base + "/run",
                "CONTAINERS_CONF": self.base + "/containers.conf", "STORAGE_DRIVER": "overlay",
                "P": shutil.which("podman") + " --cgroup-manager=cgroupfs --runtime " + binary}

    def prelude(self):
        return r"""
if [ $(id -u) = 0 ] && [ -z "$INSIDE" ]; then
  INSIDE=1 exec unshare -m bash -c 'for f in passwd group subuid subgid; do mount --bind $B/etc/$f /etc/$f; done
    mount --bind $B/tun /dev/net/tun; mount --make-rshared /; cd $B/home; exec setpriv --reuid $U --regid $U --init-groups bash -c "$1" bash' bash "$BASH_EXECUTION_STRING"
fi
podman() { $P "$@"; }
run() { podman run --rm "$@"; }
bg() { podman run -d "$@" >/dev/null; }
"""

    CLEAN = Podman.CLEAN

    def close(self):
        quiet("pkill", "-9", "-u", str(self.UID))
        super().close()


class Systemd(Daemon):
    """A system manager of its own: pid 1 of new namespaces, in a control group that is the root of what it sees."""

    START = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/units
mount -t proc proc /proc
grep ' - cgroup' /proc/self/mountinfo | sed 's/ - / /' | awk '{print $5, $(NF-2), $NF}' | sort -u >/run/mounts
umount -R -l /sys/fs/cgroup
case $(wc -l </run/mounts) in
1) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
*) mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
   while read at type options; do
     mkdir -p "$at"
     [ $type = cgroup2 ] && mount -t cgroup2 cgroup2 "$at" || mount -t cgroup -o "$(echo $options | sed 's/^r[wo],//; s/name=/none,name=/')" cgroup "$at"
   done </run/mounts ;;
esac
printf '[Unit]\nDescription=test\nDefaultDependencies=no\n' >/run/units/test.target
export container=other SYSTEMD_UNIT_PATH=/run/units
exec $SYSTEMD --system --unit=test.target --log-target=console --show-status=no
"""

    def __init__(self, sbx, root):
        super().__init__("systemd")
        self.sbx = sbx
        systemd = "/lib/systemd/systemd"
        if not os.path.exists(systemd) or shutil.which("busctl") is None:
            raise Missing("no systemd")
        self.groups = [os.path.join(line.split()[4], os.path.basename(self.base))
                       for line in open("/proc/self/mountinfo") if " - cgroup" in line]
        self.bundle = self.base + "/bundle"
        self.rootfs = root
        os.mkdir(self.bundle)
        enter = []
        for group in self.groups:
            os.makedirs(group, exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # of v1: a new one has none
                if os.path.exists(os.path.join(group, name)) and not open(os.path.join(group, name)).read().strip():
                    with open(os.path.join(os.path.dirname(group), name)) as above, \
                            open(os.path.join(group, name), "w") as own:
                        own.write(above.read())
            enter.append("echo $$ >%s/cgroup.procs" % group)
        with open(self.base + "/start", "w") as f:
            f.write(self.START)
        self.start(["sh", "-c", "%s; exec unshare -m -p -C -u -i -f sh %s/start" % ("; ".join(enter), self.base)],
                   {"SYSTEMD": systemd})
        try:
            wait_until("systemd", self.running)
        except Missing as e:
            said = self.log()
            self.close()
            raise Missing("%s; its log ends:\n%s" % (e, said))

    def running(self):
        children = "/proc/%d/task/%d/children" % ((self.process.pid,) * 2)
        found = open(children).read().split() if os.path.exists(children) else []
        self.inside = "nsenter -t %s -m -p -C -u -i" % found[0] if found else "false"
        return quiet(*self.inside.split(), "systemctl", "is-active", "test.target")

    def use(self, runtime):
        return {"IN": self.inside, "BINARY": self.sbx if runtime == "sbx" else shutil.which("runc"), "B": self.base,
                "ROOT": self.rootfs}

    def prelude(self):
        return r"""
cd $B/bundle
R() { timeout -k 1 30 $IN $BINARY --root $B/state --systemd-cgroup "$@"; }
ctl() { $IN systemctl "$@"; }
# config CGROUPSPATH RESOURCES ANNOTATIONS COMMAND...
config() {
  rm -f config.json; runc spec; local path=$1 resources=$2 annotations=$3; shift 3
  python3 - "$ROOT" "$path" "$resources" "$annotations" "$@" <<'END'
import json, sys
c = json.load(open("config.json"))
c["root"] = {"path": sys.argv[1], "readonly": True}
c["linux"]["cgroupsPath"] = sys.argv[2]
c["linux"]["resources"] = json.loads(sys.argv[3] or "{}")
c["annotations"] = json.loads(sys.argv[4] or "{}")
c["process"].update(args=sys.argv[5:], terminal=False)
json.dump(c, open("config.json", "w"))
END
}
up() { R create -b $B/bundle --pid-file $B/pid "$1" </dev/null >$B/out 2>&1 || cat $B/out; R start "$1"; }
# Where the process is, hierarchies of different kinds alike.
groups() { $IN cat /proc/$(cat $B/pid)/cgroup | grep -v :devices: | sed 's/^[0-9]*//' | sort; }
# file FILE: of the container's cgroup, v1 or v2
file() { $IN sh -c 'find /sys/fs/cgroup -path "*.scope/$1" -exec cat {} \;' sh $1; }
left() { ctl list-units --all --no-legend --plain "$1"; $IN find /sys/fs/cgroup -name "$1" | wc -l; }
"""

    CLEAN = r"""
for c in $(R list -q); do R delete -f $c; done >/dev/null 2>&1
"""

    def close(self):
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)  # unshare's child is pid 1: all others end with it
            except ProcessLookupError:
                pass
            for group in self.groups:
                for pid in open(group + "/cgroup.procs").read().split() if os.path.exists(group) else []:
                    quiet("kill", "-9", pid)
        super().close()
        for group in self.groups:
            for directory, _, _ in os.walk(group, topdown=False):
                quiet("rmdir", directory)


ENGINES = {"docker": Docker, "containerd": Containerd, "cri": Cri, "podman": Podman, "rootless": RootlessPodman,
           "systemd": Systemd}

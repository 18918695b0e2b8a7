"""What people do with docker. $I: the image, $RT: the runtime. (name, script[, options]); options: quick: part of CI;
must: what runc's output must contain, or the case is skipped here; timeout: seconds.
"""

QUICK = {"quick": True}

CASES = [
    # --- process, streams, identity
    ("echo", "run $I echo hi", QUICK),
    ("exit-status", "for c in 'exit 7' 'kill -TERM $$' 'kill -SEGV $$'; do run --init $I sh -c \"$c\"; echo $?; done", QUICK),
    ("no-such-command", "run $I /nonexistent | sed 's/.*: exec/exec/'; echo ${PIPESTATUS[0]}; run $I /etc >/dev/null; echo $?", QUICK),
    ("streams", "echo in | run -i $I cat; run $I sh -c 'echo e >&2' 2>&1 >/dev/null; run $I sh -c 'head -c 8000000 /dev/zero' | sha256sum", QUICK),
    ("terminal", "pty $D run --rm --runtime $RT -it $I sh -c '\"tty; test -t 0 && test -t 1 && echo terminal\"'", QUICK),
    ("terminal-size", "pty \"stty rows 33 cols 99; $D run --rm --runtime $RT -it $I sh -c 'sleep 1; stty size'\""),
    ("environment", "run -e A=b -e C -w /a/b -u 1000:1001 --group-add 4242 -h there $I sh -c 'env | sort; pwd; id; hostname; umask'"),
    ("entrypoint", "run --entrypoint /bin/echo $I x y; run --init $I sh -c 'tr \"\\0\" \" \" </proc/1/cmdline'"),
    ("ulimit", "run --ulimit nofile=77:88 --ulimit core=0 $I sh -c 'ulimit -n; ulimit -Hn; ulimit -c'"),
    # --- files
    ("root-filesystem", "run $I sh -c 'echo w >/f; cat /f'; run --read-only $I sh -c 'echo w >/f'; run --read-only --tmpfs /t $I sh -c 'echo w >/t/f; cat /t/f'"),
    ("bind-mounts", r"""
t=$(mktemp -d); echo host >$t/one; run -v $t:/m $I sh -c 'echo b >/m/f; cat /m/one'; cat $t/f; run -v $t:/m:ro $I sh -c 'echo b >/m/g'
run -v $t/one:/one $I cat /one
bg --name live -v $t:/m $I sh -c 'while ! grep -q 2 /m/l 2>/dev/null; do sleep 0.05; done; echo seen'
echo 2 >$t/l; docker wait live; docker logs live; rm -r $t
"""),
    ("engine-socket", "run -v ${DOCKER_HOST#unix://}:/var/run/docker.sock $I curl -s --unix-socket /var/run/docker.sock http://d/_ping; echo \" $?\""),
    ("volumes", "run -v vol:/v $I sh -c 'echo kept >/v/f'; run -v vol:/v:ro $I sh -c 'exec 2>&1; cat /v/f; echo x >/v/f'; docker volume ls -q"),
    ("tmpfs", "run --tmpfs /x:size=1m,mode=711 $I sh -c 'stat -c %a /x; grep \" /x \" /proc/mounts | cut -d\" \" -f1-3; head -c 2000000 /dev/zero >/x/f; stat -c %s /x/f'"),
    ("shared-memory-size", "run --shm-size 8m $I sh -c 'df -k /dev/shm | tail -n 1 | cut -c1-30'"),
    ("device-nodes", "run $I sh -c 'cd /dev; stat -c \"%n %F %t %T %a\" null zero full random urandom tty; readlink fd stdin ptmx'"),
    ("copy", r"""
t=$(mktemp -d); cd $t; bg --name cc $I sleep 100; echo in >f; docker cp f cc:/tmp/f; docker exec cc cat /tmp/f
docker exec cc sh -c 'mkdir /tmp/d; echo out >/tmp/d/k; ln -s k /tmp/d/l'; docker cp cc:/tmp/d .; cat d/l
docker exec cc sh -c 'ls /srv; cat /srv/f /etc/hostname.mine' 2>&1; docker cp f cc:/srv/f; docker cp f cc:/etc/hostname.mine; docker exec cc sh -c 'for i in $(seq 30); do [ -e /srv/f ] && [ -e /etc/hostname.mine ] && break; sleep 0.1; done; ls /srv; cat /srv/f /etc/hostname.mine'
echo again >f; docker cp f cc:/srv/f; docker exec cc sh -c 'for i in $(seq 30); do grep -q again /srv/f && break; sleep 0.1; done; cat /srv/f'
docker exec cc sh -c 'stat -c "%u %a" /tmp/f'; rm -r $t
"""),
    ("diff-and-commit", r"""
docker run --runtime $RT --name cd $I sh -c 'echo new >/newfile; rm /etc/debian_version; mkdir /srv/x'; docker diff cd | sort
docker commit cd committed:1 >/dev/null; run committed:1 cat /newfile; docker export cd | tar t | grep -c newfile; docker rmi committed:1 >/dev/null
"""),
    # --- security
    ("capabilities", "for o in '' '--cap-drop ALL' '--cap-add NET_ADMIN' '--cap-drop CHOWN'; do run $o $I grep -E 'Cap(Eff|Bnd|Prm)' /proc/self/status; done; run --cap-drop CHOWN $I sh -c 'touch /f; chown 5 /f'"),
    ("no-new-privileges", "run --security-opt no-new-privileges $I grep NoNewPrivs /proc/self/status; run -u 1000 --security-opt no-new-privileges $I sh -c 'cp /bin/id /tmp/id; /tmp/id -u'"),
    ("seccomp", r"""
p=$(mktemp); echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1},{"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO","errnoRet":13},{"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":10,"op":"SCMP_CMP_EQ"}]}]}' >$p
run --security-opt seccomp=$p $I sh -c 'exec 2>&1; mkdir /x; kill -0 $$; echo $?; kill -USR1 $$; echo alive'
run --security-opt seccomp=$p $I python3 -c 'import os
try: os.chmod("/tmp", 0o777)
except OSError as e: print(e.errno)'
run --security-opt seccomp=unconfined $I mkdir /x; echo $?; rm $p
"""),
    ("masked-paths", "run $I sh -c 'exec 2>&1; cat /proc/keys /proc/timer_list 2>/dev/null | wc -c; echo 1 >/proc/sys/kernel/domainname; ls /sys/firmware | wc -l'"),
    ("sysctl", "run --sysctl net.core.somaxconn=4242 --sysctl kernel.msgmax=9000 $I cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax"),
    ("user", "run -u nobody $I sh -c 'exec 2>&1; id; touch /f; ls -ld /root; cat /etc/shadow'; run -u 4000000000 $I id -u"),
    ("host-pids", r"""
bg --name ph --pid host $I sh -c 'echo $$; sleep 1000 & wait'; wait_for sh -c "$D logs ph | grep ."
[ "$(docker logs ph)" = "$(docker inspect -f '{{.State.Pid}}' ph)" ]; echo $?; docker exec ph sh -c 'kill -0 '$(docker logs ph); echo $?
docker stop -t 20 ph; docker inspect -f '{{.State.ExitCode}}' ph; run --pid host $I sh -c 'sleep 0.3 & cat /proc/$!/status 2>/dev/null | grep -c State; [ $! -gt $$ ]; (sleep 0.1; exit 4) & wait $!; echo $?'
"""),
    ("process-namespaces", r"""
bg --name pn $I sleep 100; run --pid container:pn $I sh -c 'ps -e | grep -c sleep; readlink /proc/1/exe; kill -0 1; echo $?; kill -KILL 1; echo $?'; run --pid container:pn $I sh -c 'exit 9'; echo $?
bg --name pm --pid container:pn $I sh -c 'trap "exit 3" TERM; sleep 2000 & echo up; while :; do sleep 0.1; done'; wait_for sh -c "$D logs pm | grep up"; docker exec pm sh -c 'ps -e | grep -c sleep; hostname' | sed 's/[0-9a-f]\{12\}/ID/'
docker exec pn sh -c 'cat /proc/[0-9]*/cmdline | grep -ac 2000'; docker stop -t 5 pm; docker inspect -f '{{.State.ExitCode}}' pm; docker exec pn sh -c 'cat /proc/[0-9]*/cmdline | grep -ac "sleep.2000"'
docker start pm; docker kill pn; docker wait pm; docker inspect -f '{{.State.ExitCode}}' pn
"""),
    # --- resources
    ("out-of-memory", "docker run --runtime $RT --name co --memory 48m --memory-swap 48m $I tail /dev/zero; echo $?; docker inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' co"),
    ("pids-limit", "run --pids-limit 12 $I sh -c 'i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; wait' | grep -c 'Cannot fork\\|an.t fork'"),
    ("cpuset", "run --cpuset-cpus 1 $I sh -c 'nproc; grep Cpus_allowed_list /proc/self/status'"),
    ("update", r"""
# pids.max is not compared: it has room for our own threads.
bg --name cu --memory 64m --memory-swap 64m $I sleep 100; docker update --memory 96m --memory-swap 96m --cpus 0.5 --pids-limit 50 cu
id=$(docker inspect -f '{{.Id}}' cu)
for f in memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us; do cat $(find /sys/fs/cgroup/${f%/*} -path "*$id/${f#*/}" | head -n 1); done
docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}' cu
"""),
    ("stats", "bg --name cs $I sleep 100; docker stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' cs | grep -cE '^cs [1-9][0-9]* [0-9.]+[KM]iB / [0-9.]+'"),
    ("top", "bg --name ct $I sleep 123; docker top ct | grep -c 'sleep 123'; docker exec ct ps -ef | grep -c 'sleep 12[3]'"),
    # --- network
    ("published-port", r"""
bg --name cw -p 127.0.0.1:18080:80 -p 127.0.0.1:18081:81/udp $I sh -c 'mkdir /w; echo pong >/w/index.html; cd /w; exec python3 -m http.server 80'
wait_for curl -sf http://127.0.0.1:18080/; curl -s http://127.0.0.1:18080/; curl -s http://$(docker inspect -f '{{.NetworkSettings.IPAddress}}' cw)/; docker port cw | sort
run --network container:cw $I curl -s http://127.0.0.1/; run $I curl -s http://$(docker inspect -f '{{.NetworkSettings.IPAddress}}' cw)/
"""),
    ("user-network-names", r"""
docker network create n1 >/dev/null; bg --name srv --network n1 --network-alias other $I sh -c 'mkdir /w; echo pong >/w/index.html; cd /w; exec python3 -m http.server 80'
wait_for docker exec srv curl -sf http://127.0.0.1/; for h in srv other; do run --network n1 $I curl -s http://$h/; done
run --network n1 $I getent hosts srv | wc -l; run --network n1 $I cat /etc/resolv.conf | grep nameserver; run --network n1 $I curl -s http://nobody-here/; echo $?
"""),
    ("network-modes", "run --network none $I ip -o link | cut -d: -f2; run --network host $I ip -o link | grep -c sbxtest0; run $I sh -c 'ip -o link | cut -d: -f2 | cut -d@ -f1; ip route | grep -c default'"),
    ("ping", "run $I ping -c1 -W3 172.29.199.1 | grep -c 'bytes from'; run -u 1000 $I ping -c1 -W3 127.0.0.1 | grep -c 'bytes from'"),
    ("hosts-and-dns", "run --add-host foo:9.8.7.6 --dns 9.9.9.9 --dns-search example.org -h hh $I sh -c 'grep 9.8.7.6 /etc/hosts; cat /etc/resolv.conf; hostname; getent hosts foo'"),
    ("ipv6", r"""
docker network create --ipv6 --subnet fd00:5b::/64 n6 >/dev/null; bg --name six --network n6 $I python3 -m http.server -b :: 80
a=$(docker inspect -f '{{.NetworkSettings.Networks.n6.GlobalIPv6Address}}' six); wait_for docker exec six curl -sf "http://[::1]/"
run --network n6 $I curl -s -o /dev/null -w '%{http_code}\n' "http://[$a]/"; run --network n6 $I ping -6 -c1 -W3 $a | grep -c 'bytes from'
"""),
    ("mac-address", "run --mac-address 02:42:ac:11:77:77 $I ip link | grep -c 02:42:ac:11:77:77; run --mac-address 02:42:ac:11:77:77 $I cat /sys/class/net/eth0/address"),
    ("class-net", "run $I sh -c 'ls /sys/class/net; cat /sys/class/net/lo/mtu /sys/class/net/eth0/mtu /sys/class/net/eth0/operstate /sys/class/net/lo/flags'"),
    # --- life cycle
    ("exec", r"""
bg --name cx $I sh -c 'trap "echo term; exit 3" TERM; while :; do sleep 0.1; done'
docker exec cx echo ex; docker exec cx sh -c 'exit 9'; echo $?; docker exec -u 1000 -e E=v -w /tmp cx sh -c 'id -u; echo $E $PWD'
echo in | docker exec -i cx cat; docker exec -d cx touch /det; wait_for docker exec cx test -e /det; docker exec cx ls /det
docker exec cx /nope | sed 's/.*: exec/exec/'; echo ${PIPESTATUS[0]}; pty $D exec -it cx tty
docker stop -t 5 cx; docker inspect -f '{{.State.ExitCode}}' cx; docker logs cx; docker exec cx true 2>&1 | sed 's/[0-9a-f]\{64\}/ID/'
"""),
    ("pause", "bg --name cp $I sleep 100; docker pause cp; docker inspect -f '{{.State.Status}} {{.State.Paused}}' cp; docker exec cp true | sed 's/ [0-9a-z]* is/ it is/'; docker unpause cp; docker exec cp echo on; docker inspect -f '{{.State.Status}}' cp"),
    ("stop-start-wait", r"""
bg --name cs $I sh -c 'trap "exit 3" TERM; while :; do sleep 0.1; done'; sleep 0.5; docker stop -t 5 cs; docker start cs; docker inspect -f '{{.State.Running}}' cs
sleep 0.5; docker kill -s TERM cs; docker wait cs; docker restart -t 0 cs; docker inspect -f '{{.State.Status}} {{.RestartCount}}' cs
bg --name ck $I sleep 100; docker stop -t 1 ck; docker inspect -f '{{.State.ExitCode}}' ck
"""),
    ("restart-policy", "bg --name cr --restart on-failure:2 $I sh -c 'exit 5'; wait_for sh -c 'docker inspect cr | grep -q exited'; sleep 3; docker inspect -f '{{.RestartCount}} {{.State.ExitCode}} {{.State.Status}}' cr"),
    ("logs-and-attach", "bg --name cl $I sh -c 'for i in 1 2 3; do echo l$i; sleep 0.2; done'; docker logs -f cl; docker logs --tail 1 cl; bg -i --name ca $I cat; { echo hello | timeout -s KILL 5 $D attach ca; } >/dev/null 2>&1; docker logs ca"),
    ("signal-proxy", "$D run --rm --runtime $RT --name sp $I sh -c 'trap \"echo got; exit 4\" TERM; echo up; while :; do sleep 0.1; done' >/tmp/sp.$$ & c=$!; wait_for grep up /tmp/sp.$$; kill -TERM $c; wait $c; echo $?; cat /tmp/sp.$$; rm /tmp/sp.$$"),
    ("health-check", "bg --name ch --health-cmd 'test -e /tmp/ok' --health-interval 1s --health-retries 2 $I sh -c 'touch /tmp/ok; sleep 100'; wait_for sh -c 'docker inspect ch | grep -q \\\"healthy'; docker inspect -f '{{.State.Health.Status}}' ch; docker exec ch rm /tmp/ok; wait_for sh -c 'docker inspect ch | grep -q unhealthy'; docker inspect -f '{{.State.Health.Status}}' ch"),
    ("events", "sleep 1.1; s=$(date +%s); docker run --runtime $RT --rm --name ev $I true; bg --name e2 $I sleep 100; docker pause e2; docker unpause e2; docker kill e2 >/dev/null; sleep 1; docker events --since $s --until $(($(date +%s)+1)) --filter type=container --format '{{.Action}}'"),
    ("inspect", "bg --name ci -e A=b --memory 64m $I sleep 100; docker inspect -f '{{.State.Status}} {{.State.OOMKilled}} {{.State.Dead}} {{.State.ExitCode}} {{.Path}} {{.Args}} {{.HostConfig.Memory}} {{.Config.Env}}' ci; docker inspect -f '{{gt .State.Pid 1}}' ci"),
    ("many-at-once", "for i in 1 2 3 4 5 6; do run $I echo p$i & done | sort; wait"),
    ("build", "printf 'FROM %s\\nRUN echo built >/b && apt-get --version | head -n 1 && useradd -m u\\nUSER u\\nRUN id -un\\nWORKDIR /home/u\\nCOPY Dockerfile .\\nCMD cat /b\\n' $I >/tmp/Dockerfile.$$; d=$(mktemp -d); mv /tmp/Dockerfile.$$ $d/Dockerfile; docker build -q -t built:1 $d >/dev/null; echo $?; run built:1; run built:1 ls; docker rmi built:1 >/dev/null; rm -r $d"),
    ("compose", r"""
d=$(mktemp -d)/proj; mkdir $d; cd $d; cat >docker-compose.yml <<X
version: "3"
services:
  web: {image: "$I", working_dir: /data, command: python3 -m http.server 80, volumes: ["data:/data"]}
  client: {image: "$I", depends_on: [web], volumes: ["data:/data"], command: sh -c 'echo shared >/data/f; for i in 1 2 3 4 5 6 7 8 9; do curl -sf http://web/f && exit; sleep 0.3; done'}
volumes: {data: {}}
X
docker-compose up -d >/dev/null 2>&1; echo $?; docker wait proj_client_1; docker logs proj_client_1; docker-compose ps --services; docker-compose down -v >/dev/null 2>&1; echo $?
"""),
    ("left-behind", "run $I true; sleep 0.5; docker ps -aq | wc -l; ls /run/sbx-none 2>/dev/null | wc -l"),
]

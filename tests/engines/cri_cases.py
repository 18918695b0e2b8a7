"""What a kubelet does, through containerd's CRI plugin. cri VERB: see cri.py."""

CASES = [
    ("life", r"""
cri runp p; cri ready p; cri run p c '{"envs": [{"key": "A", "value": "b"}], "working_dir": "/tmp"}' sh -c 'echo out; echo err >&2; sleep 100'
cri status c state; cri execsync c sh -c 'echo $A; pwd; hostname'; cri execsync c sh -c 'exit 7'; cri listed; sleep 0.5; cri logs c | sort; cri stats c
cri stop c 0; cri status c state exit_code reason; cri rm c; cri listed; cri stopp p; cri ready p; cri rmp p
""", {"must": "CONTAINER_RUNNING"}),
    ("exits", "cri runp p; cri run p c '{}' sh -c 'exit 3'; cri wait c; cri status c exit_code reason; cri run p d '{}' true; cri wait d; cri status d exit_code reason; cri run p e '{}' /nonexistent 2>&1 | grep -o 'no such file or directory' | head -n 1"),
    ("stop", "cri runp p; cri run p c '{}' sh -c 'trap \"echo term; exit 5\" TERM; while :; do sleep 0.1; done'; sleep 0.5; cri stop c 10; cri status c exit_code; cri logs c; cri run p d '{}' sleep 100; cri stop d 1; cri status d exit_code"),
    # The containers of a pod share its network, and its IPC namespace as far as that is the host's.
    ("network", r"""
cri runp p; cri run p web '{}' python3 -m http.server 8080; cri run p other '{}' sleep 100
wait_for cri execsync web curl -sf http://127.0.0.1:8080/; cri execsync other curl -m 20 -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8080/
curl -m 20 -s -o /dev/null -w '%{http_code}\n' http://$(cri address p):8080/; cri runp q; cri run q client '{}' sleep 100; cri execsync client curl -m 20 -s -o /dev/null -w '%{http_code}\n' http://$(cri address p):8080/
cri execsync other cat /etc/hostname; cri execsync other hostname
"""),
    # shareProcessNamespace
    ("processes", r"""
P='{"linux": {"security_context": {"namespace_options": {"pid": "POD"}}}}'; cri runp p "$P"; cri run p a "$P" sleep 1000; cri run p b "$P" sleep 1001
cri execsync b sh -c 'ps -e | grep -c sleep'; cri execsync a sh -c 'pkill -f "sleep 100[1]"; echo $?'; cri wait b; cri status b exit_code
cri run p c '{}' sleep 1002; cri execsync c sh -c 'ps -e | grep -c sleep; cat /proc/1/comm'; cri execsync a sh -c 'ps -e | grep -c sleep'; cri stop a 0; cri status a exit_code; cri status c state
"""),
    ("host-network", "N='{\"hostname\": \"\", \"linux\": {\"security_context\": {\"namespace_options\": {\"network\": \"NODE\", \"pid\": \"CONTAINER\"}}}}'; cri runp p \"$N\"; cri run p c \"$N\" sleep 100; cri execsync c sh -c 'ip -o link | wc -l'; ip -o link | wc -l"),
    ("exec", "cri runp p; cri run p c '{}' sleep 100; cri exec c '' sh -c 'echo one; echo two >&2' | sort; cri exec c '' sh -c 'exit 9'; cri exec c 'line\n' head -n 1; cri terminal c 'word\n' sh -c 'tty; read a; echo got $a' | sort; cri probe c 1 sleep 20 2>&1 | grep -o 'exceeded' | head -n 1; cri execsync c echo alive"),
    ("attach", "cri runp p; cri run p c '{\"stdin\": true, \"stdin_once\": true}' sh -c 'read a; echo got $a'; cri attach c 'word\n'; cri wait c; cri status c exit_code; cri logs c"),
    ("forward", "cri runp p; cri run p web '{}' python3 -m http.server 8080; wait_for cri execsync web curl -sf http://127.0.0.1:8080/; cri forward p 8080 'GET / HTTP/1.0'"),
    ("resources", r"""
cri runp p; cri run p c '{"linux": {"resources": {"memory_limit_in_bytes": 50331648}}}' tail /dev/zero; cri wait c; cri status c exit_code reason
cri run p d '{"linux": {"resources": {"memory_limit_in_bytes": 100663296, "cpu_quota": 50000, "cpu_period": 100000}}}' sleep 100; cri update d '{"memory_limit_in_bytes": 83886080}'
cri execsync d sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null'
"""),
    ("security", r"""
cri runp p; S='"namespace_options": {"pid": "CONTAINER"}, '
cri run p c '{"linux": {"security_context": {'"$S"'"run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}, "supplemental_groups": [7], "readonly_rootfs": true, "no_new_privs": true, "capabilities": {"drop_capabilities": ["ALL"]}, "seccomp": {"profile_type": "RuntimeDefault"}}}}' sleep 100
cri execsync c id; cri execsync c grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; cri execsync c sh -c 'touch /x'; cri execsync c unshare -U true
"""),
    ("volumes", "t=$(mktemp -d); echo x >$t/f; cri runp p; cri run p c '{\"mounts\": [{\"container_path\": \"/m\", \"host_path\": \"'$t'\", \"readonly\": true}, {\"container_path\": \"/w\", \"host_path\": \"'$t'\"}]}' sleep 100; cri execsync c sh -c 'cat /m/f; touch /m/g; echo y >/w/h'; cat $t/h; cri run p d '{\"mounts\": [{\"container_path\": \"/w\", \"host_path\": \"'$t'\"}]}' cat /w/h; cri wait d; cri logs d; rm -r $t"),
]

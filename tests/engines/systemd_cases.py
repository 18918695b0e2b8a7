"""--systemd-cgroup under a systemd of its own. R: the runtime; config, up, ctl, groups, file, left: see engines.py."""

CASES = [
    ("scope", r"""
config a-b.slice:my:s '{"memory": {"limit": 200003584}, "cpu": {"quota": 50000, "period": 100000, "shares": 512}, "pids": {"limit": 400}}' \
  '{"org.systemd.property.TimeoutStopUSec": "uint64 7000000"}' sleep 100
up s; R list | awk '{print $1, $3}'
ctl show my-s.scope -p Slice -p Delegate -p MemoryLimit -p MemoryMax -p CPUQuotaPerSecUSec -p CPUShares -p CPUWeight -p ActiveState -p SubState -p DefaultDependencies -p TimeoutStopUSec -p MemoryAccounting -p TasksAccounting
groups; file memory.limit_in_bytes; file memory.max; file cpu.cfs_quota_us; file cpu.max; file cpu.shares; file cpu.weight
R update --memory 100003840 --cpu-quota 70000 --cpu-period 100000 s; ctl show my-s.scope -p MemoryLimit -p MemoryMax -p CPUQuotaPerSecUSec
ctl daemon-reload; file memory.limit_in_bytes; file memory.max; file cpu.cfs_quota_us; file cpu.max
R delete -f s; echo $?; left 'my-*'
""", {"quick": True, "must": "Slice=a-b.slice"}),
    ("default-slice", "config '' '' '' sleep 100; up d; groups | sed 's/runc-/sbx-/'; R kill d KILL; wait_for sh -c \"$IN $BINARY --root $B/state state d | grep stopped\"; R delete d; left '*-d.scope'"),
    ("stop", "config :my:t '' '' sh -c 'trap \"echo got; exit 3\" TERM; while :; do sleep 0.1; done'; up t; sleep 0.5; ctl stop my-t.scope 2>/dev/null; R state t | grep status; grep -v Terminated $B/out; R delete t; left 'my-*'"),
    ("signal", "config :my:g '' '' sh -c 'trap \"echo hup\" HUP; trap \"echo int\" INT; trap \"echo usr; exit 3\" USR1; while :; do sleep 0.1; done'; up g; sleep 0.5; for s in HUP INT USR1; do $IN kill -$s $(cat $B/pid); sleep 0.5; done; cat $B/out; R state g | grep status; R delete g"),
    ("end", "config :my:e '' '' true; up e; wait_for sh -c \"$IN $BINARY --root $B/state state e | grep stopped\"; wait_for sh -c \"! $IN systemctl is-active my-e.scope\"; R delete e; echo $?; left 'my-*'"),
    ("pause", "config :my:p '' '' sleep 100; up p; R pause p; R state p | grep status; ctl show my-p.scope -p ActiveState; R resume p; R state p | grep status; R delete -f p; left 'my-*'"),
    ("bad-path", "config /not/systemd '' '' true; R create -b $B/bundle p 2>&1 </dev/null | grep -o 'expected cgroupsPath.*instead'; config nothing:my:p '' '' true; R create -b $B/bundle p </dev/null >/dev/null 2>&1; echo $?; R list -q; left 'my-*'"),
    ("bad-property", "config :my:b '' '{\"org.systemd.property.NoSuchThing\": \"true\"}' true; R create -b $B/bundle b </dev/null >/dev/null 2>&1; echo $?; R list -q; left 'my-*'"),
]

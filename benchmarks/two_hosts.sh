#!/usr/bin/env bash
# Two hosts for mpirun on one machine: each has a network, an address and a name of its own, and between them is a link
# of limited speed. Needs root, iproute2 and Open MPI.
#     benchmarks/two_hosts.sh 1gbit COMMAND…          runs COMMAND on both, as mpirun -n 2 does
set -euo pipefail
rate=$1
shift
agent=$(mktemp)

trap 'ip netns delete nt_a; ip netns delete nt_b; rm -f "$agent"' EXIT
for host in a b; do
    ip netns delete nt_$host 2>/dev/null || true
    ip netns add nt_$host
    ip -n nt_$host link set lo up
done
ip link add nt_a netns nt_a type veth peer name nt_b netns nt_b
address=1
for host in a b; do
    ip -n nt_$host address add 10.77.0.$address/24 dev nt_$host
    ip -n nt_$host link set nt_$host up
    tc -n nt_$host qdisc add dev nt_$host root tbf rate "$rate" burst 256kb latency 50ms
    address=$((address + 1))
done

# what mpirun starts instead of ssh: agent HOST WORD… runs the words in that host's network, under its name
cat >"$agent" <<'END'
#!/usr/bin/env bash
case $1 in 10.77.0.1) host=a ;; *) host=b ;; esac
shift
exec ip netns exec nt_$host unshare --uts bash -c "hostname nt-$host; $*"
END
chmod +x "$agent"

mpirun=$(command -v mpirun)
exec_a=(ip netns exec nt_a unshare --uts bash -c 'hostname nt-a; exec "$@"' bash)
"${exec_a[@]}" "$mpirun" --allow-run-as-root --host 10.77.0.1,10.77.0.2 --bind-to none \
    --prtemca plm_ssh_agent "$agent" --mca btl tcp,self --mca pml ob1 --mca btl_tcp_if_include 10.77.0.0/24 \
    --prtemca oob_tcp_if_include 10.77.0.0/24 --prtemca oob_tcp_keepalive_time 10 --prtemca oob_tcp_keepalive_intvl 5 \
    --prtemca oob_tcp_keepalive_probes 3 -n 2 "$@"

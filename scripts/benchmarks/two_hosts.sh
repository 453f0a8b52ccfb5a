#!/bin/sh
# Runs a program as two ranks on two hosts that a slow network joins: two network namespaces of this host with
# names of their own, and a pair of virtual devices between them that send no faster than a rate. mpiexec starts
# the second rank as it does on another host, with this script's launcher in place of ssh. Needs root, iproute2,
# util-linux, and MPICH's mpiexec.
#
#   sh scripts/benchmarks/two_hosts.sh 1gbit python scripts/benchmarks/measure_ranks.py
#   sh scripts/benchmarks/two_hosts.sh 1gbit minidrop devices --mpi
#
# A rank has one core: OMP_NUM_THREADS and MINIDROP_THREADS are 1 unless set.
set -eu
rate=$1
shift
one=minidrop-$$-1 two=minidrop-$$-2
launcher=$(mktemp)
trap 'ip netns del $one 2>/dev/null || true; ip netns del $two 2>/dev/null || true; rm -f "$launcher"' EXIT
trap 'exit 143' TERM INT
ip netns add $one
ip netns add $two
ip link add wire netns $one type veth peer name wire netns $two
for side in 1 2; do
    space=minidrop-$$-$side
    ip -n $space addr add 10.77.0.$side/24 dev wire
    ip -n $space link set lo up
    ip -n $space link set wire up
    ip netns exec $space tc qdisc add dev wire root handle 1: htb default 1
    ip netns exec $space tc class add dev wire parent 1: classid 1:1 htb rate "$rate" burst 128k quantum 60000
done
# The kernel takes a second to see that both ends are up, and MPI would take a device that is not for none.
for space in $one $two; do
    tries=0
    until ip -n $space -br link show dev wire | grep -q " UP "; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { echo "error: the network between $one and $two does not come up" >&2; exit 1; }
        sleep 0.1
    done
done
# What mpiexec starts in place of ssh: [options] host command
cat >"$launcher" <<END
#!/bin/sh
while [ "\${1#-}" != "\$1" ]; do shift; done
space=minidrop-$$-\${1##*.}
shift
exec ip netns exec \$space unshare --uts sh -c "hostname \$space && \$*"
END
chmod +x "$launcher"
# TCP alone: the ranks would find each other's memory.
ip netns exec $one mpiexec -n 2 -ppn 1 -hosts 10.77.0.1,10.77.0.2 -localhost 10.77.0.1 \
    -launcher rsh -launcher-exec "$launcher" \
    -genv UCX_TLS tcp -genv FI_PROVIDER tcp \
    -genv OMP_NUM_THREADS "${OMP_NUM_THREADS:-1}" -genv MINIDROP_THREADS "${MINIDROP_THREADS:-1}" "$@"

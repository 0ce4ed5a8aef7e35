# What the scripts share. They run as the only thing in a guest, by busybox's shell.
set -u
export PATH=/test:/bin
cd /tmp
modprobe nbd nbds_max=2

fail() {
  echo "FAILED: $*"
  echo "--- log"; cat log
  vmimg nbd list; ps; dmesg | tail -n 20
  exit 1
}
# Runs a command that must succeed, or with `not STATUS` fail so.
must() { "$@" >log 2>&1 || fail "$* ($?)"; }
not() {
  local expected=$1 status=0
  shift
  "$@" >log 2>&1 || status=$?
  [ $status = "$expected" ] || fail "$* ($status, not $expected)"
}
said() { grep -q -- "$1" log || fail "it does not say: $1"; }
# Nothing of the program may be left: no device, no partition, no mount, no process, no lock.
nothing_left() {
  [ -z "$(ls /sys/block/nbd*/pid 2>/dev/null)" ] || fail "a device is left"
  [ -z "$(ls -d /sys/block/nbd*/nbd*p* 2>/dev/null)" ] || fail "a partition is left"
  ! grep nbd /proc/mounts || fail "a mount is left"
  ! pidof vmimg >/dev/null || fail "a process is left: $(pidof vmimg)"
  [ ! -e /tmp/a.qcow2 ] || must vmimg image info -f qcow2 /tmp/a.qcow2
}
# Waits until a command succeeds, which takes no longer than a second or two.
until_true() {
  local n=0
  until "$@" >/dev/null 2>&1; do
    n=$((n + 1))
    [ $n -lt 200 ] || fail "this does not become true: $*"
    usleep 50000
  done
}
# A disk with a table of two partitions.
partitioned() {
  must vmimg image create -f qcow2 "$1" "$2"
  must vmimg nbd connect "$1" /dev/nbd0
  printf 'label: gpt\nstart=2048, size=16384\nstart=18432\n' | sfdisk -q /dev/nbd0 >log 2>&1 || fail sfdisk
  must vmimg nbd disconnect /dev/nbd0
}

# What the scripts share. They run as the only thing in a guest, by busybox's shell.
set -u
# Some kills for every five rounds.
KILLS=$(((ROUNDS + 4) / 5))
export PATH=/test:/bin TMPDIR=/tmp
cd /tmp
modprobe nbd nbds_max=2
# What the kernel says is not mixed with what the script says; `fail` shows it.
dmesg -n 1

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
# The program's processes. One that has ended, and of which nobody has asked how, is none.
live() {
  local pid
  for pid in $(pidof vmimg); do
    case $(sed -n 's/^State:[^A-Z]*//p' "/proc/$pid/status" 2>/dev/null) in
      '' | Z* | X*) ;;
      *) echo "$pid" ;;
    esac
  done
}
none_lives() { [ -z "$(live)" ]; }
# Nothing of the program may be left: no device, no partition, no mount, no process, no lock.
nothing_left() {
  [ -z "$(ls /sys/block/nbd*/pid 2>/dev/null)" ] || fail "a device is left"
  [ -z "$(ls -d /sys/block/nbd*/nbd*p* 2>/dev/null)" ] || fail "a partition is left"
  ! grep nbd /proc/mounts || fail "a mount is left"
  # Who served a device may be about to end.
  until_true none_lives
  [ ! -e /tmp/a.qcow2 ] || must vmimg image info -f qcow2 /tmp/a.qcow2
}
# Waits until a command succeeds, which takes no longer than a second or two where nothing else runs.
until_true() {
  local n=0
  until "$@" >/dev/null 2>&1; do
    n=$((n + 1))
    [ $n -lt 1200 ] || fail "this does not become true: $*"
    usleep 50000
  done
}
# Writes to the second partition without a cache, and returns when some of it has reached the server.
writes() {
  local before now
  read -r _ _ _ _ before _ </sys/block/nbd0/stat
  dd if=/dev/zero of=/dev/nbd0p2 bs=1M oflag=direct conv=notrunc 2>/dev/null &
  writing() { read -r _ _ _ _ now _ </sys/block/nbd0/stat && [ "$now" -gt "$before" ]; }
  until_true writing
}
# An image whose writer was killed may hold clusters that nothing uses, and nothing worse.
sound() {
  vmimg image check -q "$1" >log 2>&1 || [ $? = 3 ] || fail "$1 is damaged"
}
# A disk with a table of two partitions.
partitioned() {
  must vmimg image create -f qcow2 "$1" "$2"
  must vmimg nbd connect "$1" /dev/nbd0
  printf 'label: gpt\nstart=2048, size=16384\nstart=18432\n' | sfdisk -q /dev/nbd0 >log 2>&1 || fail sfdisk
  must vmimg nbd disconnect /dev/nbd0
}
# A guest on a disk with a file system of type $2 in its second partition, with all that could lead to the host in it.
guest() {
  partitioned "$1" 400M
  must vmimg nbd connect "$1" /dev/nbd0
  case $2 in
    ext4) must /bin/mke2fs -q -t ext4 /dev/nbd0p2 ;;
    xfs) must mkfs.xfs -q /dev/nbd0p2 ;;
    btrfs) must mkfs.btrfs -q /dev/nbd0p2 ;;
  esac
  must mount -t "$2" /dev/nbd0p2 /mnt
  must mkdir -p /mnt/etc /mnt/usr/bin /tmp/host
  echo 'ID=test' >/mnt/etc/os-release
  printf 'old' >/mnt/etc/hosts
  echo 'of the host' >/tmp/host/secret
  ln -s /tmp/host /mnt/host
  ln -s ../../../../tmp/host /mnt/above
  ln -s /proc/self/root/tmp/host /mnt/magic
  ln -s /tmp/host/secret /mnt/secret
  mkfifo /mnt/fifo
  mknod /mnt/disk b 254 0
  cp /bin/busybox /mnt/usr/bin/su
  chown 5:6 /mnt/usr/bin/su
  chmod 6755 /mnt/usr/bin/su
  must umount /mnt
  must vmimg nbd disconnect nbd0
}

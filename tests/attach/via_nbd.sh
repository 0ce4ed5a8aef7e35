cat >plan.json <<'JSON'
[{"op": "write", "path": "/etc/motd", "src": "motd", "mode": "0640", "uid": 5, "gid": 6, "mtime": 1000000000},
 {"op": "write", "path": "/usr/bin/su", "src": "motd"},
 {"op": "append", "path": "/etc/hosts", "src": "motd"},
 {"op": "line", "path": "/etc/hosts", "line": "the last"},
 {"op": "mkdir", "path": "/srv/www", "mode": "02775", "uid": 33, "gid": 33},
 {"op": "write", "path": "/srv/www/a/b", "src": "motd", "xattrs": {"user.a": "00ff"}},
 {"op": "symlink", "path": "/srv/link", "target": "/tmp/host"},
 {"op": "link", "path": "/srv/name", "target": "/etc/motd"},
 {"op": "node", "path": "/dev/null", "type": "char", "major": 1, "minor": 3, "mode": "0666"},
 {"op": "rename", "path": "/etc/release", "from": "/etc/os-release"},
 {"op": "write", "path": "/host/secret", "src": "motd"},
 {"op": "write", "path": "/above/other", "src": "motd"},
 {"op": "write", "path": "/magic/third", "src": "motd"},
 {"op": "remove", "path": "/srv/link"}]
JSON
echo 'of the guest' >motd
state() { md5sum a.qcow2; ls -a /tmp; }

for kind in ext4 xfs btrfs; do
  rm -f a.qcow2
  guest a.qcow2 $kind
  before=$(state)

  # Reading changes nothing, and finds the root among the partitions.
  must vmimg disk ls --via nbd -l a.qcow2 /etc
  said '^-rw-r--r--  1  0  0  3 .* hosts$'
  must vmimg disk cat --via nbd a.qcow2 /etc/hosts
  said '^old$'
  not 3 vmimg disk cat --via nbd a.qcow2 /secret
  not 6 vmimg disk cat --via nbd a.qcow2 /fifo
  not 6 vmimg disk get --via nbd a.qcow2 /etc/hosts plan.json
  must vmimg disk get --via nbd a.qcow2 / copied
  [ "$(readlink copied/host) $(stat -c %a copied/usr/bin/su)" = "/tmp/host 755" ] || fail "not as copied"
  [ ! -e copied/fifo ] && [ ! -e copied/disk ] || fail "a device came along"
  rm -r copied
  [ "$(state)" = "$before" ] || fail "the image has changed"

  # What fails leaves the old image.
  case $kind in ext4) path=/fifo ;; xfs) path=/disk ;; btrfs) path=/etc ;; esac
  echo '[{"op": "write", "path": "/etc/hosts", "src": "motd"}, {"op": "write", "path": "'$path'", "src": "motd"}]' >bad.json
  not 6 vmimg disk inject --via nbd --manifest bad.json a.qcow2
  rm bad.json
  [ "$(state)" = "$before" ] || fail "the image has changed"
  not 5 vmimg disk inject --via nbd --in-place --manifest plan.json a.qcow2
  not 5 vmimg disk put --via nbd --partition 1 a.qcow2 motd /motd
  said 'partition 1 has no known file system'

  must vmimg disk inject --via nbd --manifest plan.json a.qcow2
  must vmimg disk put --via nbd --mode 0600 a.qcow2 /bin/busybox /etc/new/busybox
  nothing_left

  # All that is known of files, archives, and room.
  must vmimg disk stat --via nbd a.qcow2 /dev/null /srv/www/a/b
  said 'char-device 1, 3'
  said 'user.a 00ff'
  rm -f all.tar
  must vmimg disk get --via nbd --tar all.tar a.qcow2 /srv
  must tar -t -f all.tar
  said '^./www/a/b$'
  must vmimg disk df --via nbd --json a.qcow2
  said '"block_size": \(1024\|4096\),'

  # The partition and the file system take up what the disk gets.
  must vmimg image resize -f qcow2 a.qcow2 600M
  must vmimg disk grow --via nbd a.qcow2
  said '^partition 2: 390 MiB -> 590.9 MiB$'
  said '^file system: 390 MiB -> 590.9 MiB$'
  if [ $kind = xfs ]; then
    must vmimg image resize -f qcow2 a.qcow2 800M
    must vmimg disk grow --via nbd --no-fs a.qcow2
    must vmimg disk resize --via nbd --fs 700M a.qcow2
    said '^file system: 590.9 MiB -> 700 MiB$'
    not 6 vmimg disk resize --via nbd --fs 600M a.qcow2
  fi
  nothing_left
  [ "$(ls -A /tmp/host) $(cat /tmp/host/secret)" = "secret of the host" ] || fail "the host was written"

  # Sound, and as planned: by its own checker, and by a mount that is not ours.
  must vmimg image check -q a.qcow2
  must vmimg nbd connect --read-only a.qcow2
  case $kind in
    ext4) must e2fsck -fn /dev/nbd0p2 ;;
    xfs) must xfs_repair -n /dev/nbd0p2 ;;
    btrfs) must btrfs check --readonly /dev/nbd0p2 ;;
  esac
  must mount -t $kind -o ro /dev/nbd0p2 /mnt
  [ "$(df -k /mnt | awk 'END { print $2 }')" -gt 520000 ] || fail "it has not grown: $(df -k /mnt)"
  [ "$(stat -c '%a %u:%g %Y %h' /mnt/etc/motd)" = "640 5:6 1000000000 2" ] || fail "another motd: $(stat /mnt/etc/motd)"
  [ "$(stat -c '%a %u:%g %s' /mnt/usr/bin/su)" = "6755 5:6 13" ] || fail "another su: $(stat /mnt/usr/bin/su)"
  [ "$(stat -c '%a %u:%g' /mnt/srv/www/a)" = "2755 0:33" ] || fail "another folder: $(stat /mnt/srv/www/a)"
  printf 'oldof the guest\nthe last\n' | cmp - /mnt/etc/hosts || fail "other hosts"
  [ "$(stat -c '%F %t,%T %a' /mnt/dev/null)" = "character special file 1,3 666" ] || fail "another device: $(stat /mnt/dev/null)"
  [ -e /mnt/etc/release ] && [ ! -e /mnt/etc/os-release ] && [ ! -L /mnt/srv/link ] || fail "other names"
  cmp motd /mnt/tmp/host/secret && cmp motd /mnt/tmp/host/other || fail "links lead elsewhere"
  cmp motd /mnt/proc/self/root/tmp/host/third || fail "a link leads elsewhere"
  cmp /bin/busybox /mnt/etc/new/busybox || fail "other bytes"
  must umount /mnt
  must vmimg nbd disconnect nbd0
  nothing_left
  if [ $kind = ext4 ]; then
    must vmimg disk cat a.qcow2 /etc/motd
    said '^of the guest$'
  fi
  echo "$kind is good"
done

# The root of a subvolume that is mounted by its name; a second btrfs of the same UUID is told apart, or refused.
must vmimg nbd connect a.qcow2
must mount -t btrfs /dev/nbd0p2 /mnt
must btrfs subvolume create /mnt/@
must mkdir -p /mnt/@/etc /mnt/@/usr
rm -r /mnt/etc
must umount /mnt
must vmimg nbd disconnect nbd0
must vmimg disk put --via nbd a.qcow2 motd /etc/motd
must vmimg nbd connect a.qcow2
must mount -t btrfs /dev/nbd0p2 /mnt
cmp motd /mnt/@/etc/motd || fail "another subvolume"
cp a.qcow2 b.qcow2
not 6 vmimg disk put --via nbd b.qcow2 motd /etc/motd
said 'cannot tell two of them apart'
must umount /mnt
must vmimg nbd disconnect nbd0
rm b.qcow2
nothing_left

# XFS as a machine leaves it that loses its power, while one of the same UUID is mounted here.
rm a.qcow2
guest a.qcow2 xfs
must vmimg nbd connect a.qcow2
must mount -t xfs /dev/nbd0p2 /mnt
echo 'in the log' >/mnt/etc/new
sync
cp a.qcow2 b.qcow2
must vmimg disk cat --via nbd b.qcow2 /etc/new
said '^in the log$'
must vmimg disk put --via nbd b.qcow2 motd /etc/motd
must umount /mnt
must vmimg nbd disconnect nbd0
must vmimg disk cat --via nbd b.qcow2 /etc/motd /etc/new
must vmimg nbd connect --read-only b.qcow2
must xfs_repair -n /dev/nbd0p2
must vmimg nbd disconnect nbd0
nothing_left

# While it works, whoever looks at every new device is asked to leave this one alone.
mkfifo input
vmimg nbd connect --foreground --attend b.qcow2 <input >log 2>&1 &
exec 3>input
until_true grep -q nbd0p2 log
grep -q "FLOCK .* WRITE .*:$(stat -c %i /dev/nbd0) 0 EOF" /proc/locks || fail "the device is not locked: $(cat /proc/locks)"
exec 3>&-
wait $! || fail "it ended with $?"
rm input
nothing_left

# An image behind another server is read, and not changed.
vmimg nbd serve --socket s.sock b.qcow2 >serving 2>&1 &
until_true [ -S s.sock ]
must vmimg disk ls --via nbd 'nbd+unix:///?socket=s.sock' /etc
said '^motd$'
not 5 vmimg disk put --via nbd 'nbd+unix:///?socket=s.sock' motd /etc/other
said 'is an NBD export'
kill -TERM $!
wait $!
nothing_left
echo ALL GOOD

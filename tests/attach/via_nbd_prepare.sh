# The demo guest, on XFS and on btrfs.
must vmimg prepare first --root machines --image builtin:demo --host-keys keep
must vmimg disk get machines/first/disk.qcow2 / tree
for kind in xfs btrfs; do
  rm -f a.qcow2
  guest a.qcow2 $kind
  must vmimg nbd connect a.qcow2
  must mount -t $kind /dev/nbd0p2 /mnt
  rm /mnt/etc/os-release
  must cp -a tree/. /mnt/
  : >/mnt/etc/fstab
  must umount /mnt
  must vmimg nbd disconnect nbd0
  before=$(md5sum a.qcow2)

  not 5 vmimg prepare $kind --root machines --image a.qcow2 --host-keys keep
  must vmimg prepare $kind --root machines --image a.qcow2 --host-keys keep --via nbd --hostname web1 --size 600M
  nothing_left
  [ "$(md5sum a.qcow2)" = "$before" ] || fail "the base has changed"
  must vmimg disk cat --via nbd machines/$kind/disk.qcow2 /etc/hostname
  said '^web1$'
  must vmimg image check -q machines/$kind/disk.qcow2
  must vmimg nbd connect --read-only machines/$kind/disk.qcow2
  [ "$(cat /sys/block/nbd0/size)" = 1228800 ] || fail "another size"
  case $kind in
    xfs) must xfs_repair -n /dev/nbd0p2 ;;
    btrfs) must btrfs check --readonly /dev/nbd0p2 ;;
  esac
  must mount -t $kind -o ro /dev/nbd0p2 /mnt
  [ "$(df -k /mnt | awk 'END { print $2 }')" -gt 520000 ] || fail "it has not grown: $(df -k /mnt)"
  must umount /mnt
  must vmimg nbd disconnect nbd0
  nothing_left
  echo "$kind is good"
done
echo ALL GOOD

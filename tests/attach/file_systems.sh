for kind in ext4 xfs btrfs; do
  rm -f a.qcow2
  partitioned a.qcow2 400M
  must vmimg nbd connect a.qcow2
  case $kind in
    ext4) must /bin/mke2fs -q -t ext4 /dev/nbd0p2 ;;
    xfs) must mkfs.xfs -q /dev/nbd0p2 ;;
    btrfs) must mkfs.btrfs -q /dev/nbd0p2 ;;
  esac
  must mount -t $kind -o nosuid,nodev,noexec /dev/nbd0p2 /mnt
  must mkdir /mnt/etc
  must cp /bin/busybox /mnt/etc/
  echo web1 >/mnt/etc/hostname
  must umount /mnt
  must vmimg nbd disconnect nbd0
  nothing_left

  # The disk grows, its table and then its file system.
  must vmimg image resize -f qcow2 a.qcow2 600M
  must vmimg disk grow --no-fs --partition 2 a.qcow2
  must vmimg nbd connect a.qcow2
  must mount -t $kind /dev/nbd0p2 /mnt
  before=$(df -k /mnt | awk 'END { print $2 }')
  case $kind in
    ext4) must resize2fs /dev/nbd0p2 ;;
    xfs) must xfs_growfs /mnt ;;
    btrfs) must btrfs filesystem resize max /mnt ;;
  esac
  [ "$(df -k /mnt | awk 'END { print $2 }')" -gt $((before + 150000)) ] || fail "it has not grown"
  must rm /mnt/etc/hostname
  echo web2 >/mnt/etc/hostname
  must umount /mnt
  must vmimg nbd disconnect nbd0
  nothing_left

  # Sound, and as it was written: by its own checker, by a second connection, and ext4 by our own reader.
  must vmimg image check -q a.qcow2
  must vmimg nbd connect --read-only a.qcow2
  case $kind in
    ext4) must e2fsck -fn /dev/nbd0p2 ;;
    xfs) must xfs_repair -n /dev/nbd0p2 ;;
    btrfs) must btrfs check --readonly /dev/nbd0p2 ;;
  esac
  must mount -t $kind -o ro /dev/nbd0p2 /mnt
  cmp /bin/busybox /mnt/etc/busybox || fail "other bytes"
  [ "$(cat /mnt/etc/hostname)" = web2 ] || fail "an old file"
  must umount /mnt
  must vmimg nbd disconnect nbd0
  nothing_left
  if [ $kind = ext4 ]; then
    must vmimg disk cat --partition 2 a.qcow2 /etc/hostname
    said '^web2$'
  fi
  echo "$kind is good"
done
echo ALL GOOD

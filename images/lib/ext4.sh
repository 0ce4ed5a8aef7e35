# An ext4 file system from a tree, the same bytes each time. To be sourced; runs under fakeroot.

# Makes FILE a file system as Debian 12's mke2fs makes it by default, with the content of directory TREE.
#
# The owners, modes, link targets and times of change are those of TREE.
#
# usage: make_ext4 FILE SIZE_KIB UUID TREE [MKE2FS_OPTION]...
make_ext4() {
  local file=$1 kib=$2 uuid=$3 tree=$4
  shift 4
  # Newer releases of mke2fs switch on features that Debian 12 does not.
  MKE2FS_CONFIG=$(dirname "${BASH_SOURCE[0]}")/mke2fs.conf E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH \
    mke2fs -q -F -t ext4 -U "$uuid" -E "hash_seed=$uuid,nodiscard" -d "$tree" "$@" "$file" "${kib}k"
}

# Sets every time in FILE, which make_ext4 made from TREE, to $SOURCE_DATE_EPOCH, so that two builds give the same bytes:
# mke2fs copies the times of access and status change, which nobody can set on the tree.
#
# usage: fix_times FILE TREE
fix_times() {
  local file=$1 tree=$2 path field
  {
    (cd "$tree" && find . -printf '/%P\n' && echo /lost+found) | LC_ALL=C sort | while read -r path; do
      for field in atime ctime mtime crtime; do
        echo "set_inode_field \"$path\" $field @$SOURCE_DATE_EPOCH"
      done
      for field in atime_extra ctime_extra mtime_extra crtime_extra; do
        echo "set_inode_field \"$path\" $field 0"
      done
    done
  } >"$file.times"
  if E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f "$file.times" "$file" 2>&1 >/dev/null |
    grep -v '^debugfs [0-9]' >&2; then
    return 1
  fi
  rm -f "$file.times"
}

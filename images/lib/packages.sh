# Debian packages for the recipes, as an ordinary user and without touching this machine's apt. To be sourced.
#
# A recipe builds from one Debian release whatever this machine runs. Packages come from this machine's own mirror when it
# runs Debian, or from $DEBIAN_MIRROR.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints the address of a Debian mirror.
debian_mirror() {
  local mirror=${DEBIAN_MIRROR:-}
  # What apt would fetch, by release: neither Ubuntu's nor another vendor's.
  [ -n "$mirror" ] || mirror=$(apt-get update --print-uris 2>/dev/null |
    sed -nE "s,^'(.*)/dists/(bullseye|bookworm|trixie|forky|sid|stable|testing|unstable)/InRelease'.*,\1,p" | head -n 1)
  [ -n "$mirror" ] || {
    echo "error: apt names no Debian mirror; set DEBIAN_MIRROR to the address of one" >&2
    return 1
  }
  echo "${mirror%/}"
}

# Writes a private apt configuration for SUITE into directory STATE and sets `apt_options`.
#
# usage: private_apt SUITE STATE
private_apt() {
  local suite=$1 state=$2 mirror
  mirror=$(debian_mirror) || return
  mkdir -p "$state"/{lists/partial,archives/partial,parts}
  : >"$state/status"
  cat >"$state/sources.list" <<LIST
deb [signed-by=$keyring] $mirror $suite main
deb [signed-by=$keyring] $mirror $suite-updates main
deb [signed-by=$keyring] $mirror-security $suite-security main
LIST
  cat >"$state/apt.conf" <<CONF
// Whatever this machine does after an update is not for us.
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
quiet "2";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "$(id -un)";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "$state/parts";
Dir::Etc::preferencesparts "$state/parts";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Cache::archives "$state/archives";
CONF
  apt_options=(-c "$state/apt.conf")
  apt-get "${apt_options[@]}" update
}

# Downloads packages and unpacks each into DIR/PACKAGE, without installing anything. Needs private_apt.
#
# usage: unpack_packages DIR PACKAGE...
unpack_packages() {
  local dir=$1 package
  shift
  mkdir -p "$dir/debs"
  (cd "$dir/debs" && apt-get "${apt_options[@]}" download "$@")
  for package in "$@"; do
    dpkg-deb -x "$dir/debs/$package"_*.deb "$dir/$package"
  done
}

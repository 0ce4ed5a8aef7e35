# Debian packages for the recipes, as an ordinary user and without touching this machine's apt. To be sourced.
#
# A recipe builds from one Debian release whatever this machine runs. Packages come from this machine's own mirror when it
# runs Debian, or from $DEBIAN_MIRROR.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints the address of a Debian mirror.
debian_mirror() {
  local mirror=${DEBIAN_MIRROR:-}
  [ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(ORIGIN) $(SITE)' 'Identifier: Packages' 2>/dev/null |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
  [ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(SITE)' 'Identifier: Packages' 2>/dev/null |
    awk '/debian\/?$/ { print; exit }')
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
  apt_options=(-qq -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts="$state/parts"
    -o Dir::Etc::preferencesparts="$state/parts" -o Dir::State::lists="$state/lists"
    -o Dir::State::status="$state/status" -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives"
    -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User="$(id -un)")
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

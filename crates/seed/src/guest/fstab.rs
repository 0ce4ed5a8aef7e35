/// A line of a guest's `/etc/fstab`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FstabEntry {
    /// What is mounted, as in `LABEL=root`.
    pub(super) spec: String,
    /// Where.
    pub(super) mount_point: String,
    /// The type of file system.
    pub(super) kind: String,
    /// The options.
    pub(super) options: Vec<String>,
}

impl FstabEntry {
    /// Returns whether the guest mounts it at boot, or on first use.
    pub(super) fn is_mounted(&self) -> bool {
        let has = |name: &str| self.options.iter().any(|option| option == name);
        self.mount_point.starts_with('/') && self.kind != "swap" && (!has("noauto") || has("x-systemd.automount"))
    }

    /// Returns why the files below the mount point are not those of the volume's root folder, if so.
    pub(super) fn detour(&self) -> Option<&'static str> {
        let any = |test: &dyn Fn(&str) -> bool| self.options.iter().any(|option| test(option));
        if any(&|option| option == "bind" || option == "rbind") {
            return Some("bind mounts are not followed");
        }
        if any(&|option| option.starts_with("subvol=") || option.starts_with("subvolid=")) {
            return Some("subvolumes are not supported");
        }
        match self.kind.as_str() {
            "tmpfs" | "ramfs" => Some("it is in memory and empty at each boot"),
            "overlay" | "aufs" => Some("overlays are not followed"),
            "proc" | "sysfs" | "devpts" | "devtmpfs" | "cgroup" | "cgroup2" | "debugfs" | "securityfs" | "efivarfs" => {
                Some("it is made by the kernel")
            }
            _ => None,
        }
    }
}

/// Reads the entries of an fstab; what is no entry is passed over, as mount does.
pub(super) fn decode(bytes: &[u8]) -> Vec<FstabEntry> {
    let text = String::from_utf8_lossy(bytes);
    let mut entries = Vec::new();
    for line in text.lines().take(LINES_MAX) {
        let mut fields = line.split_ascii_whitespace().map(unescaped);
        let (Some(spec), Some(mount_point)) = (fields.next(), fields.next()) else { continue };
        if spec.starts_with('#') {
            continue;
        }
        let kind = fields.next().unwrap_or_default();
        let options = fields.next().unwrap_or_default().split(',').map(str::to_owned).collect();
        entries.push(FstabEntry { spec, mount_point, kind, options });
    }
    entries
}

/// Returns a field with its octal escapes, as in `\040` for a space, replaced.
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', digits @ ..] => digits
                .get(..3)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 8).ok()),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The most lines that are looked at.
const LINES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    #[test]
    fn comments_swap_and_unmounted_entries_are_passed_over() {
        let entries = super::decode(
            b"# comment\nPARTUUID=ab-01 / ext4 rw,discard 0 1\nUUID=c swap swap sw\nLABEL=d\\040e /srv ext4 noauto\n/dev/vda3 /my\\040data auto\nbad\n",
        );
        let mounted: Vec<_> = entries
            .iter()
            .filter(|entry| entry.is_mounted())
            .map(|entry| (entry.spec.as_str(), entry.mount_point.as_str()))
            .collect();
        assert_eq!(mounted, [("PARTUUID=ab-01", "/"), ("/dev/vda3", "/my data")]);
        assert_eq!(entries.iter().find(|entry| entry.mount_point == "/srv").unwrap().spec, "LABEL=d e");
    }

    #[test]
    fn mounts_that_lead_elsewhere_are_told_apart() {
        let detour = |line: &str| super::decode(line.as_bytes())[0].detour();
        assert_eq!(detour("LABEL=x /var ext4 defaults"), None);
        assert!(detour("/srv/home /home none bind").is_some());
        assert!(detour("tmpfs /tmp tmpfs").is_some());
        assert!(detour("LABEL=x /home btrfs subvol=home").is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_fstab(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for entry in super::decode(&bytes) {
                let _ = (entry.is_mounted(), entry.detour());
            }
        }
    }
}

use serde::Serialize;

use super::{Error, SMALL, Tree, os};

/// A guest's SELinux, when it is installed and not disabled.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Selinux {
    /// Whether it denies or only reports.
    pub mode: SelinuxMode,
    /// The policy, as in `targeted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where the policy says which label each path has, when that file is there.
    pub file_contexts: Option<String>,
}

/// What SELinux does at boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SelinuxMode {
    /// It denies.
    Enforcing,
    /// It reports.
    Permissive,
}

impl Selinux {
    /// Looks for SELinux in a guest; `None` when it is not installed, or disabled.
    ///
    /// # Errors
    ///
    /// [`Error::FileSystem`].
    pub fn inspect(tree: &Tree) -> Result<Option<Self>, Error> {
        let Some(config) = tree.read("/etc/selinux/config", SMALL)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&config);
        let Some(mode) = text.lines().find_map(mode).flatten() else { return Ok(None) };
        // A stray configuration alone loads no policy.
        if !(tree.exists("/usr/sbin/load_policy")? || tree.exists("/sbin/load_policy")?) {
            return Ok(None);
        }
        let mut types =
            text.lines().filter_map(|line| line.trim().split_once('=')).filter(|(key, _)| key.trim() == "SELINUXTYPE");
        let kind = types
            .next_back()
            .map(|(_, value)| os::unquoted(value))
            .filter(|kind| !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)))
            .unwrap_or_else(|| "targeted".to_owned());
        let path = format!("/etc/selinux/{kind}/contexts/files/file_contexts");
        let file_contexts = tree.exists(&path)?.then_some(path);
        Ok(Some(Self { mode, kind, file_contexts }))
    }
}

/// Returns what a line says of the mode, if it says anything: libselinux takes the first line that does, by the beginnings of line and
/// value. `Some(None)` is a disabled one.
fn mode(line: &str) -> Option<Option<SelinuxMode>> {
    let value = line.strip_prefix("SELINUX=")?.trim_start();
    let begins = |with: &str| value.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    let modes =
        [("enforcing", Some(SelinuxMode::Enforcing)), ("permissive", Some(SelinuxMode::Permissive)), ("disabled", None)];
    modes.into_iter().find(|(name, _)| begins(name)).map(|(_, mode)| mode)
}

#[cfg(test)]
mod tests {
    use super::{SelinuxMode, mode};

    #[test]
    fn the_mode_is_read_as_libselinux_reads_it() {
        let read = |text: &str| text.lines().find_map(mode).flatten();
        assert_eq!(read("# SELINUX=x\nSELINUX=Enforcing # keep\nSELINUX=disabled\n"), Some(SelinuxMode::Enforcing));
        assert_eq!(read("SELINUX=what\nSELINUX=\tpermissive"), Some(SelinuxMode::Permissive));
        for unset in
            ["SELINUX = enforcing", " SELINUX=enforcing", "SELINUX=disabled\nSELINUX=enforcing", "SELINUX=\"enforcing\"", ""]
        {
            assert_eq!(read(unset), None, "{unset}");
        }
    }
}

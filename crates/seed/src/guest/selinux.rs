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
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim().split_once('='));
            lines.rfind(|(key, _)| key.trim() == name).map(|(_, value)| os::unquoted(value))
        };
        let mode = match value("SELINUX").unwrap_or_default().to_ascii_lowercase().as_str() {
            "enforcing" => SelinuxMode::Enforcing,
            "permissive" => SelinuxMode::Permissive,
            _ => return Ok(None),
        };
        // A stray configuration alone loads no policy.
        if !(tree.exists("/usr/sbin/load_policy")? || tree.exists("/sbin/load_policy")?) {
            return Ok(None);
        }
        let kind = value("SELINUXTYPE")
            .filter(|kind| !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)))
            .unwrap_or_else(|| "targeted".to_owned());
        let path = format!("/etc/selinux/{kind}/contexts/files/file_contexts");
        let file_contexts = tree.exists(&path)?.then_some(path);
        Ok(Some(Self { mode, kind, file_contexts }))
    }
}

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::context::Context;
use crate::domain::{Error, MachineType};
use crate::error::CommandError;
use crate::files::read_text;

/// UEFI firmware without Secure Boot, as the host's distribution describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Firmware {
    /// Its code, which guests share.
    pub(super) code: PathBuf,
    /// What a new guest's variables begin as.
    pub(super) variables: PathBuf,
}

impl Firmware {
    /// Returns the first firmware of the host that suits `machine`.
    ///
    /// # Spec
    ///
    /// QEMU, docs/interop/firmware.json: folders in order of priority, a file in one hiding those of the same name in the later
    /// ones, and files by name.
    ///
    /// # Errors
    ///
    /// [`Error::NoFirmware`].
    pub(super) fn find(context: &Context, machine: MachineType) -> Result<Self, CommandError> {
        let own = context.variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(context.home()?.join(".config")));
        let own = own.map(|config| config.join("qemu/firmware"));
        let folders: Vec<PathBuf> = own.into_iter().chain(FOLDERS.iter().map(PathBuf::from)).collect();
        Self::find_in(&folders, machine).ok_or_else(|| Error::NoFirmware.into())
    }

    fn find_in(folders: &[PathBuf], machine: MachineType) -> Option<Self> {
        let mut files = BTreeMap::new();
        for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                files.entry(entry.file_name()).or_insert(path);
            }
        }
        files.values().filter_map(|path| read(path)).find_map(|description| description.suiting(machine))
    }

    /// Makes the guest's own variables at `path`, unless they are there.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub(super) fn make_variables(&self, path: &Path) -> Result<(), CommandError> {
        let cannot = |error| CommandError::io(format!("cannot make the firmware's variables `{}`", path.display()), error);
        let mut target = match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(cannot(error)),
        };
        let copied = File::open(&self.variables).and_then(|mut source| io::copy(&mut source, &mut target));
        copied.map(drop).map_err(|error| {
            // Half a copy would be taken for the guest's own later.
            let _removed = fs::remove_file(path);
            cannot(error)
        })
    }
}

/// A description of firmware, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Description {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    mode: Option<String>,
    executable: Option<Part>,
    nvram_template: Option<Part>,
}

#[derive(Deserialize)]
struct Part {
    filename: PathBuf,
    format: String,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

impl Description {
    fn suiting(self, machine: MachineType) -> Option<Firmware> {
        let versions = match machine {
            MachineType::Q35 => "pc-q35-",
            MachineType::Pc => "pc-i440fx-",
        };
        let suits =
            |target: &Target| target.architecture == "x86_64" && target.machines.iter().any(|name| name.starts_with(versions));
        let plain = self.interface_types.iter().any(|kind| kind == "uefi")
            && self.mapping.device == "flash"
            && self.mapping.mode.as_deref().is_none_or(|mode| mode == "split")
            && !self.features.iter().any(|feature| feature == "secure-boot" || feature == "requires-smm");
        if !plain || !self.targets.iter().any(suits) {
            return None;
        }
        let file = |part: Option<Part>| part.filter(|part| part.format == "raw" && part.filename.is_file());
        let (code, variables) = (file(self.mapping.executable)?, file(self.mapping.nvram_template)?);
        Some(Firmware { code: code.filename, variables: variables.filename })
    }
}

fn read(path: &Path) -> Option<Description> {
    let text = read_text(path, 1 << 20).ok()?;
    // A description of firmware that is not understood is of no use.
    serde_json::from_str(&text).ok()
}

const FOLDERS: [&str; 2] = ["/etc/qemu/firmware", "/usr/share/qemu/firmware"];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::Firmware;
    use crate::domain::MachineType;

    #[test]
    fn the_first_description_without_secure_boot_counts_and_a_hidden_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (own, system) = (folder.path().join("own"), folder.path().join("system"));
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(&system).unwrap();
        for name in ["a", "b", "vars"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::write(system.join("40.json"), description(folder.path(), "a", r#""secure-boot""#)).unwrap();
        fs::write(system.join("50.json"), "{").unwrap();
        fs::write(system.join("60.json"), description(folder.path(), "a", "")).unwrap();
        let folders = [own.clone(), system];
        assert_eq!(Firmware::find_in(&folders, MachineType::Q35).unwrap().code, folder.path().join("a"));
        assert_eq!(Firmware::find_in(&folders, MachineType::Pc), None);
        fs::write(own.join("60.json"), description(folder.path(), "b", "")).unwrap();
        assert_eq!(Firmware::find_in(&folders, MachineType::Q35).unwrap().code, folder.path().join("b"));
        fs::write(own.join("60.json"), "{}").unwrap();
        assert_eq!(Firmware::find_in(&folders, MachineType::Q35), None);
    }

    #[test]
    fn a_guest_keeps_its_variables() {
        let folder = tempfile::tempdir().unwrap();
        let (template, own) = (folder.path().join("template"), folder.path().join("own"));
        fs::write(&template, "new").unwrap();
        let firmware = Firmware { code: template.clone(), variables: template };
        firmware.make_variables(&own).unwrap();
        assert_eq!(fs::read(&own).unwrap(), b"new");
        fs::write(&own, "changed").unwrap();
        firmware.make_variables(&own).unwrap();
        assert_eq!(fs::read(&own).unwrap(), b"changed");
    }

    fn description(folder: &Path, code: &str, features: &str) -> String {
        let folder = folder.display();
        format!(
            r#"{{"interface-types": ["uefi"], "features": [{features}], "tags": [],
            "targets": [{{"architecture": "x86_64", "machines": ["pc-q35-*"]}}],
            "mapping": {{"device": "flash", "executable": {{"filename": "{folder}/{code}", "format": "raw"}},
            "nvram-template": {{"filename": "{folder}/vars", "format": "raw"}}}}}}"#
        )
    }
}

use std::collections::BTreeMap;
use std::sync::Arc;

use imgcore::fs::GuestPath;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Error, Tree, UserData, ec2, meta_data};
use crate::keys::ssh::AuthorizedKey;
use crate::network::ResolvedNetwork;

/// An OpenStack config drive: meta data in every dated version, user and vendor data, the network and injected files.
///
/// # Spec
///
/// OpenStack Nova, user/metadata; cloud-init, reference/datasources/configdrive.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigDrive {
    /// The machine's UUID, which cloud-init takes as the instance id.
    pub uuid: Uuid,
    /// The host name.
    pub hostname: String,
    /// The display name; the host name when absent.
    pub name: Option<String>,
    /// The index among machines that were launched together.
    pub launch_index: u32,
    /// The availability zone; `nova`, the default of Nova, when absent.
    pub availability_zone: Option<String>,
    /// Free keys; `dsmode` is one that cloud-init knows.
    pub meta: BTreeMap<String, String>,
    /// Keys that may log in as the image's default user, by their names.
    pub public_keys: BTreeMap<String, AuthorizedKey>,
    /// Files that cloud-init writes, mode 0660.
    pub files: Vec<InjectedFile>,
    /// The administrator's password, in plain text for every user of the guest who can read the drive.
    pub admin_pass: Option<String>,
    /// 512 bytes from [`crate::identity::Randomness`] with which the guest's random pool begins.
    pub random_seed: Option<Box<[u8; 512]>>,
    /// The project's id.
    pub project_id: Option<String>,
    /// Tagged devices, in Nova's form.
    pub devices: Vec<Value>,
    /// The device nodes of data disks by Nova's names for them, `ephemeral0` and so on and `swap`: cloud-init mounts the first of
    /// them and turns on the swap space.
    pub block_devices: BTreeMap<String, String>,
    /// Numbers of virtual processors that have a physical one for themselves.
    pub dedicated_cpus: Vec<u32>,
    /// The user data.
    pub user_data: Option<UserData>,
    /// `vendor_data.json`; an empty map when absent.
    pub vendor_data: Map<String, Value>,
    /// `vendor_data2.json`, by the names of their sources; an empty map when absent.
    pub vendor_data2: Map<String, Value>,
    /// `network_data.json`, which is left out when absent: an empty one would mean no network.
    pub network: Option<ResolvedNetwork>,
    /// Writes all ten versions of the EC2 tree rather than `2009-04-04` and `latest`, which are those that Nova writes.
    pub every_ec2_version: bool,
}

/// A file that a config drive carries for cloud-init to write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InjectedFile {
    /// Where it is written.
    pub path: GuestPath,
    /// All of its bytes.
    pub contents: Arc<[u8]>,
}

impl ConfigDrive {
    /// Returns a drive that says no more than who the machine is.
    #[must_use]
    pub fn new(uuid: Uuid, hostname: impl Into<String>) -> Self {
        Self {
            uuid,
            hostname: hostname.into(),
            name: None,
            launch_index: 0,
            availability_zone: None,
            meta: BTreeMap::new(),
            public_keys: BTreeMap::new(),
            files: Vec::new(),
            admin_pass: None,
            random_seed: None,
            project_id: None,
            devices: Vec::new(),
            block_devices: BTreeMap::new(),
            dedicated_cpus: Vec::new(),
            user_data: None,
            vendor_data: Map::new(),
            vendor_data2: Map::new(),
            network: None,
            every_ec2_version: false,
        }
    }

    /// Returns the files of the drive.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for an empty host name or more files than the format can number, [`Error::OffNetwork`], [`Error::Tree`] when the contents are
    /// too large.
    pub fn tree(&self) -> Result<Tree, Error> {
        if self.hostname.trim().is_empty() {
            return Err(Error::Value { what: "the host name", rule: "is empty" });
        }
        if self.files.len() > MAX_FILES {
            return Err(Error::Value { what: "the list of injected files", rule: "has more than 10000 entries" });
        }
        if let Some((interface, router)) = self.network.as_ref().and_then(ResolvedNetwork::off_network_router) {
            return Err(Error::OffNetwork { interface: interface.to_owned(), router });
        }
        let mut tree = Tree::new();
        let user_data = self.user_data.as_ref().map(UserData::encode).transpose()?;
        for version in DATED_VERSIONS {
            self.add_version(&mut tree, version, version, user_data.as_ref())?;
        }
        self.add_version(&mut tree, LATEST, NEWEST, user_data.as_ref())?;
        for (number, file) in self.files.iter().enumerate() {
            tree.insert(&format!("openstack{}", content_path(number)), Arc::clone(&file.contents))?;
        }
        let skip = if self.every_ec2_version { 0 } else { ec2::FIRST_WRITTEN };
        for version in ec2::VERSIONS.iter().skip(skip) {
            tree.insert(&format!("ec2/{version}/meta-data.json"), json("the EC2 meta data", &ec2::meta_data(self, version))?)?;
            if let Some(user_data) = &user_data {
                tree.insert(&format!("ec2/{version}/user-data"), Arc::clone(user_data))?;
            }
        }
        Ok(tree)
    }

    /// Adds the folder `name` with what the dated `version` has.
    fn add_version(&self, tree: &mut Tree, name: &str, version: &str, user_data: Option<&Arc<[u8]>>) -> Result<(), Error> {
        let folder = format!("openstack/{name}");
        let meta_data = meta_data::render(self, version);
        tree.insert(&format!("{folder}/meta_data.json"), json("the meta data", &meta_data)?)?;
        if let Some(user_data) = user_data {
            tree.insert(&format!("{folder}/user_data"), Arc::clone(user_data))?;
        }
        if version >= HAVANA {
            tree.insert(&format!("{folder}/vendor_data.json"), json("the vendor data", &self.vendor_data)?)?;
        }
        if version >= LIBERTY
            && let Some(network) = &self.network
        {
            tree.insert(&format!("{folder}/network_data.json"), json("the network data", &network.to_network_data())?)?;
        }
        if version >= NEWTON_TWO {
            tree.insert(&format!("{folder}/vendor_data2.json"), json("the vendor data", &self.vendor_data2)?)?;
        }
        Ok(())
    }
}

/// Returns where the file of this number is, below the drive's `openstack` folder.
pub(super) fn content_path(number: usize) -> String {
    format!("/content/{number:04}")
}

fn json<T: Serialize>(what: &'static str, value: &T) -> Result<Arc<[u8]>, Error> {
    serde_json::to_vec(value).map(Arc::from).map_err(|source| Error::Json { what, source })
}

/// The dated versions of the OpenStack tree, oldest first; `latest` is the same as the newest.
pub const DATED_VERSIONS: [&str; 10] =
    [FOLSOM, GRIZZLY, HAVANA, LIBERTY, NEWTON_ONE, NEWTON_TWO, OCATA, ROCKY, VICTORIA, NEWEST];

/// The first version.
const FOLSOM: &str = "2012-08-10";
/// The random seed is new.
pub(super) const GRIZZLY: &str = "2013-04-04";
/// `vendor_data.json` is new.
const HAVANA: &str = "2013-10-17";
/// `network_data.json` and the project's id are new.
pub(super) const LIBERTY: &str = "2015-10-15";
/// Devices are new.
pub(super) const NEWTON_ONE: &str = "2016-06-30";
/// `vendor_data2.json` is new.
const NEWTON_TWO: &str = "2016-10-06";
/// More about devices, which the caller states.
const OCATA: &str = "2017-02-22";
/// More about network devices, which the caller states.
const ROCKY: &str = "2018-08-27";
/// Dedicated processors are new.
pub(super) const VICTORIA: &str = "2020-10-14";
/// More about shared file systems, which the caller states.
const NEWEST: &str = "2025-04-04";
const LATEST: &str = "latest";
/// As many as four digits number.
const MAX_FILES: usize = 10_000;

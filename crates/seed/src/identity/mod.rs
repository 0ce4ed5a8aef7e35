//! Who a machine is: one UUID, one set of MAC addresses, one source of randomness.

mod mac;
mod random;

pub use mac::{MacAddress, MacError};
pub use random::Randomness;

use rand_core::RngCore as _;
use uuid::Uuid;

/// What tells one machine from every other, and must be the same wherever it is written.
///
/// The UUID is the domain's, the firmware's (SMBIOS), the config drive's and NoCloud's instance id; the MAC addresses are the
/// domain's and the network config's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The machine's UUID.
    pub uuid: Uuid,
    /// One address for each network interface, in the order of the interfaces.
    pub macs: Vec<MacAddress>,
}

impl Identity {
    /// Returns a new identity with `interfaces` MAC addresses, all different, under QEMU's prefix `52:54:00`.
    ///
    /// The address of an interface does not depend on how many there are.
    #[must_use]
    pub fn generate(randomness: &Randomness, interfaces: usize) -> Self {
        let mut bytes = [0; 16];
        randomness.stream("uuid").fill_bytes(&mut bytes);
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let mut stream = randomness.stream("mac addresses");
        let mut macs = Vec::new();
        // 2^24 addresses exist under the prefix; a domain has far fewer interfaces.
        while macs.len() < interfaces.min(MAX_INTERFACES) {
            let mac = MacAddress::generate(&mut stream);
            if !macs.contains(&mac) {
                macs.push(mac);
            }
        }
        Self { uuid, macs }
    }

    /// Returns the instance id: the UUID in lower case with hyphens.
    ///
    /// cloud-init compares it with the firmware's UUID to see without network whether a boot is the first.
    #[must_use]
    pub fn instance_id(&self) -> String {
        self.uuid.hyphenated().to_string()
    }
}

/// More interfaces than a machine can have.
const MAX_INTERFACES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::{Identity, Randomness};

    #[test]
    fn the_same_seed_value_and_name_give_the_same_identity() {
        let first = Identity::generate(&Randomness::from_seed_value("s", "web1"), 2);
        assert_eq!(first, Identity::generate(&Randomness::from_seed_value("s", "web1"), 2));
        for (seed, name) in [("s", "web2"), ("t", "web1"), ("sw", "eb1")] {
            let other = Identity::generate(&Randomness::from_seed_value(seed, name), 2);
            assert_ne!(first.uuid, other.uuid);
            assert_ne!(first.macs, other.macs);
        }
    }

    #[test]
    fn an_interface_keeps_its_address_when_another_one_is_added() {
        let randomness = Randomness::from_seed_value("s", "web1");
        let one = Identity::generate(&randomness, 1);
        let many = Identity::generate(&randomness, 300);
        assert_eq!(one.macs[0], many.macs[0]);
        let different: std::collections::BTreeSet<_> = many.macs.iter().collect();
        assert_eq!(different.len(), 300);
    }

    #[test]
    fn a_uuid_is_random_and_of_the_standard_variant() {
        let identity = Identity::generate(&Randomness::from_seed_value("s", "web1"), 0);
        assert_eq!(identity.uuid.get_version_num(), 4);
        assert_eq!(identity.instance_id(), identity.uuid.to_string());
        assert_eq!(identity.instance_id().len(), 36);
    }
}

use std::fmt;
use std::str::FromStr;

use rand_core::RngCore;
use serde::{Deserialize, Serialize};

/// The address of one Ethernet interface: never a group's, never all zero.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// Why a text is not the address of one Ethernet interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MacError {
    /// The text is not six pairs of hexadecimal digits with colons or hyphens between them.
    #[error("a MAC address is six pairs of hexadecimal digits")]
    Malformed,
    /// The lowest bit of the first octet is set.
    #[error("a group's MAC address cannot belong to an interface")]
    Multicast,
    /// All octets are zero.
    #[error("an interface's MAC address is not all zero")]
    Zero,
}

impl MacAddress {
    /// Returns a random address under `52:54:00`, QEMU's locally administered prefix.
    pub fn generate<R: RngCore + ?Sized>(random: &mut R) -> Self {
        let mut tail = [0; 3];
        random.fill_bytes(&mut tail);
        let [a, b, c] = tail;
        Self([0x52, 0x54, 0x00, a, b, c])
    }

    /// Returns the address of six `octets`.
    ///
    /// # Errors
    ///
    /// [`MacError::Multicast`] for a group's address and [`MacError::Zero`] for all zeros.
    pub fn from_octets(octets: [u8; 6]) -> Result<Self, MacError> {
        let [first, ..] = octets;
        if first & 1 == 1 {
            return Err(MacError::Multicast);
        }
        if octets == [0; 6] {
            return Err(MacError::Zero);
        }
        Ok(Self(octets))
    }

    /// Returns the six octets.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut octets = [0; 6];
        let mut pairs = text.split([':', '-']);
        for octet in &mut octets {
            let pair = pairs.next().ok_or(MacError::Malformed)?;
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(MacError::Malformed);
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| MacError::Malformed)?;
        }
        if pairs.next().is_some() {
            return Err(MacError::Malformed);
        }
        Self::from_octets(octets)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::MacAddress;

    #[test]
    fn an_address_reads_in_both_spellings_and_prints_in_lower_case() {
        let address: MacAddress = "52:54:00:AB:cd:0f".parse().unwrap();
        assert_eq!(address.to_string(), "52:54:00:ab:cd:0f");
        assert_eq!("52-54-00-ab-cd-0f".parse::<MacAddress>().unwrap(), address);
        assert_eq!(serde_json::to_string(&address).unwrap(), "\"52:54:00:ab:cd:0f\"");
    }

    #[test]
    fn group_addresses_zero_and_malformed_text_are_refused() {
        for text in
            ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "", "52:54:00:00:00", "52:54:00:00:00:00:00"]
        {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
        for text in ["5254000000aa", "52:54:00:00:00:+f", "52:54:00:00:00:ag", "52:54:0:0:0:0"] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}

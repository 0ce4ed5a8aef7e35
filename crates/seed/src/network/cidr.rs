use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address with the length of its network's prefix in bits, as in `192.0.2.10/24`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not an address with a prefix length.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CidrError {
    /// There is no `/`.
    #[error("{0:?} lacks the length of its prefix, as in 192.0.2.10/24")]
    NoPrefix(String),
    /// The part before the `/` is no address, or the part behind it no prefix length of that family.
    #[error("{0:?} is not an address with the length of its prefix, as in 192.0.2.10/24")]
    Malformed(String),
}

impl Cidr {
    /// Returns the address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Returns the length of the prefix in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Returns the mask of the prefix.
    #[must_use]
    pub fn netmask(self) -> IpAddr {
        let prefix = u32::from(self.prefix);
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::MAX.checked_shl(u32::BITS.saturating_sub(prefix)).unwrap_or(0)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX.checked_shl(u128::BITS.saturating_sub(prefix)).unwrap_or(0)).into(),
        }
    }

    /// Returns whether `address` is in the network.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let family = self.address.is_ipv4() == address.is_ipv4();
        family && Self { address, prefix: self.prefix }.network() == self.network()
    }

    /// Returns the network's own address: the bits behind the prefix are zero.
    #[must_use]
    pub fn network(self) -> IpAddr {
        match (self.address, self.netmask()) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => Ipv4Addr::from_bits(address.to_bits() & mask.to_bits()).into(),
            (IpAddr::V6(address), IpAddr::V6(mask)) => Ipv6Addr::from_bits(address.to_bits() & mask.to_bits()).into(),
            (address, _) => address,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or_else(|| CidrError::NoPrefix(text.to_owned()))?;
        let malformed = || CidrError::Malformed(text.to_owned());
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if prefix.is_empty() || !prefix.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(malformed());
        }
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest { Err(malformed()) } else { Ok(Self { address, prefix }) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    #[test]
    fn masks_and_networks_follow_the_prefix() {
        for (text, mask, network) in [
            ("192.0.2.10/24", "255.255.255.0", "192.0.2.0"),
            ("10.1.2.3/0", "0.0.0.0", "0.0.0.0"),
            ("10.1.2.3/32", "255.255.255.255", "10.1.2.3"),
            ("2001:db8::5/64", "ffff:ffff:ffff:ffff::", "2001:db8::"),
            ("::/0", "::", "::"),
        ] {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(cidr.to_string(), text);
            assert_eq!(cidr.netmask().to_string(), mask);
            assert_eq!(cidr.network().to_string(), network);
        }
    }

    #[test]
    fn a_network_contains_what_begins_like_it() {
        let contains = |network: &str, address: &str| network.parse::<Cidr>().unwrap().contains(address.parse().unwrap());
        assert!(
            contains("192.0.2.10/24", "192.0.2.1") && contains("10.1.2.3/0", "192.0.2.1") && contains("::1/0", "2001:db8::1")
        );
        assert!(
            !contains("192.0.2.10/24", "192.0.3.1") && !contains("192.0.2.5/32", "192.0.2.1") && !contains("0.0.0.0/0", "::1")
        );
    }

    #[test]
    fn what_is_no_cidr_is_refused() {
        for text in
            ["", "10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/+8", "10.0.0.256/8", "::1/129", "a/8", "10.0.0.1/8/8"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}

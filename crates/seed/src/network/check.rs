use std::net::IpAddr;

use super::{Interface, Network, ResolvedInterface, Route};
use crate::identity::MacAddress;

/// Why a network's description cannot be carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("network interface {interface} ({name}): {fault}")]
pub struct Error {
    /// The interface's place, from 0.
    pub interface: usize,
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub fault: Fault,
}

/// A rule that an interface's description breaks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Neither the description nor the machine has a MAC address for this place.
    #[error("there is no MAC address for it")]
    NoMac,
    /// Another interface has the MAC address.
    #[error("another interface has the MAC address {0}")]
    MacTaken(MacAddress),
    /// Linux does not accept the name.
    #[error("a name has 1 to 15 of the characters a-z, A-Z, 0-9, `.`, `_` and `-`, and is not `lo`, `.` or `..`")]
    Name,
    /// Another interface has the name.
    #[error("another interface has this name")]
    NameTaken,
    /// An address that no host can have.
    #[error("{0} is not an address that a host can have")]
    Address(IpAddr),
    /// An address is there twice.
    #[error("the address {0} is there twice")]
    AddressTwice(IpAddr),
    /// A router of a family in which the interface has no address.
    #[error("the router {0} needs an address of its family on the interface")]
    Unreachable(IpAddr),
    /// A route between two families.
    #[error("the route to {0} goes through a router of the other family")]
    Family(String),
    /// A route to an address that has bits behind its prefix.
    #[error("{0} is not a network: bits behind its prefix are set")]
    HostBits(String),
    /// A search domain that is no domain name.
    #[error("{0:?} is not a domain name")]
    Domain(String),
    /// The MTU is outside of 68 (IPv6: 1280) to 65535.
    #[error("an MTU is 68 to 65535 bytes, and at least 1280 with IPv6")]
    Mtu,
}

pub(super) fn resolve(network: &Network, macs: &[MacAddress]) -> Result<Vec<ResolvedInterface>, Error> {
    let mut resolved: Vec<ResolvedInterface> = Vec::new();
    for (number, interface) in network.interfaces.iter().enumerate() {
        let name = interface.name.clone().unwrap_or_else(|| format!("eth{number}"));
        let fail = |fault| Error { interface: number, name: name.clone(), fault };
        let mac = interface.mac.or_else(|| macs.get(number).copied()).ok_or_else(|| fail(Fault::NoMac))?;
        if resolved.iter().any(|other| other.mac == mac) {
            return Err(fail(Fault::MacTaken(mac)));
        }
        if !is_interface_name(&name) {
            return Err(fail(Fault::Name));
        }
        if resolved.iter().any(|other| other.name == name) {
            return Err(fail(Fault::NameTaken));
        }
        check(interface).map_err(fail)?;
        resolved.push(ResolvedInterface { mac, name, settings: interface.clone() });
    }
    Ok(resolved)
}

fn check(interface: &Interface) -> Result<(), Fault> {
    for (number, cidr) in interface.addresses.iter().enumerate() {
        if !is_host(cidr.address()) {
            return Err(Fault::Address(cidr.address()));
        }
        if interface.addresses.iter().take(number).any(|other| other.address() == cidr.address()) {
            return Err(Fault::AddressTwice(cidr.address()));
        }
    }
    let gateways = [interface.gateway4.map(IpAddr::from), interface.gateway6.map(IpAddr::from)];
    for gateway in gateways.into_iter().flatten() {
        check_router(interface, gateway)?;
    }
    for route in &interface.routes {
        check_route(interface, route)?;
    }
    if let Some(server) = interface.dns.iter().find(|server| !is_host(**server)) {
        return Err(Fault::Address(*server));
    }
    if let Some(domain) = interface.search.iter().find(|domain| !is_domain(domain)) {
        return Err(Fault::Domain(domain.clone()));
    }
    let has_ipv6 = interface.dhcp6 || interface.addresses.iter().any(|cidr| cidr.address().is_ipv6());
    let least = if has_ipv6 { 1280 } else { 68 };
    if interface.mtu.is_some_and(|mtu| !(least..=65_535).contains(&mtu)) {
        return Err(Fault::Mtu);
    }
    Ok(())
}

fn check_route(interface: &Interface, route: &Route) -> Result<(), Fault> {
    if route.to.address().is_ipv4() != route.via.is_ipv4() {
        return Err(Fault::Family(route.to.to_string()));
    }
    if route.to.network() != route.to.address() {
        return Err(Fault::HostBits(route.to.to_string()));
    }
    check_router(interface, route.via)
}

/// A router may be on the link without being in a network of the interface, but not without any address to talk from.
fn check_router(interface: &Interface, router: IpAddr) -> Result<(), Fault> {
    if !is_host(router) {
        return Err(Fault::Address(router));
    }
    let dhcp = if router.is_ipv4() { interface.dhcp4 } else { interface.dhcp6 };
    let talks = dhcp || interface.addresses.iter().any(|cidr| cidr.address().is_ipv4() == router.is_ipv4());
    if talks { Ok(()) } else { Err(Fault::Unreachable(router)) }
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "lo" | "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_domain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Fault;
    use crate::network::Network;

    fn fault(interfaces: serde_json::Value) -> Fault {
        let network: Network = serde_json::from_value(json!({ "interfaces": interfaces })).unwrap();
        network.resolve(&["52:54:00:00:00:01".parse().unwrap()]).unwrap_err().fault
    }

    #[test]
    fn each_rule_has_its_own_word() {
        let mac = "52:54:00:00:00:01";
        assert_eq!(fault(json!([{}, {}])), Fault::NoMac);
        assert_eq!(fault(json!([{}, {"mac": mac}])), Fault::MacTaken(mac.parse().unwrap()));
        for name in ["", "lo", "..", "a b", "a/b", "sixteen-bytes-xx"] {
            assert_eq!(fault(json!([{"name": name}])), Fault::Name, "{name}");
        }
        assert_eq!(fault(json!([{}, {"mac": "52:54:00:00:00:02", "name": "eth0"}])), Fault::NameTaken);
        assert!(matches!(fault(json!([{"addresses": ["224.0.0.1/4"]}])), Fault::Address(_)));
        assert!(matches!(fault(json!([{"addresses": ["10.0.0.1/8", "10.0.0.1/24"]}])), Fault::AddressTwice(_)));
        assert!(matches!(fault(json!([{"gateway4": "10.0.0.1"}])), Fault::Unreachable(_)));
        assert!(matches!(fault(json!([{"gateway6": "fe80::1", "dhcp4": true}])), Fault::Unreachable(_)));
        let route = |to: &str, via: &str| json!([{"dhcp4": true, "routes": [{"to": to, "via": via}]}]);
        assert!(matches!(fault(route("10.0.0.0/8", "fe80::1")), Fault::Family(_)));
        assert!(matches!(fault(route("10.0.0.1/8", "192.0.2.1")), Fault::HostBits(_)));
        assert!(matches!(fault(json!([{"dns": ["0.0.0.0"]}])), Fault::Address(_)));
        assert!(matches!(fault(json!([{"search": ["a b"]}])), Fault::Domain(_)));
        assert_eq!(fault(json!([{"mtu": 67}])), Fault::Mtu);
        assert_eq!(fault(json!([{"dhcp6": true, "mtu": 1279}])), Fault::Mtu);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let read = |value| serde_json::from_value::<Network>(value).is_err();
        assert!(read(json!({"interfaces": [{"dhcp": true}]})));
        assert!(read(json!({"ethernets": {}})));
        assert!(read(json!({"interfaces": [{"addresses": ["10.0.0.1"]}]})));
    }
}

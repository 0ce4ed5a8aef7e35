//! A guest's network, described once and rendered for each reader.

mod check;
mod cidr;
mod network_config;
mod network_data;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::{Error, Fault};
pub use cidr::{Cidr, CidrError};

use crate::identity::MacAddress;

/// A guest's network interfaces as a user describes them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The interfaces, in the order of the domain's.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
}

/// One interface. Without addresses and DHCP it is left without configuration.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its address on the link; the machine's own one for this place when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The name that the guest gives it; `eth0`, `eth1`, … by its place when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether an IPv4 address is asked of a DHCP server.
    #[serde(default)]
    pub dhcp4: bool,
    /// Whether an IPv6 address is asked of a DHCP server.
    #[serde(default)]
    pub dhcp6: bool,
    /// Static addresses with the length of their network's prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
    /// The default route of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway4: Option<Ipv4Addr>,
    /// The default route of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// Further routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Domains that short names are looked up in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// The largest packet, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A route to a network.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The network.
    pub to: Cidr,
    /// The router.
    pub via: IpAddr,
    /// Its rank among routes to the same network; the lower one is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// A checked network in which each interface has its MAC address and name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResolvedNetwork {
    interfaces: Vec<ResolvedInterface>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct ResolvedInterface {
    mac: MacAddress,
    name: String,
    settings: Interface,
}

impl ResolvedInterface {
    /// Returns whether a guest has to be told that `router` is on the link.
    fn is_off_network(&self, router: IpAddr) -> bool {
        let settings = &self.settings;
        // DHCP gives a network that is not known here; a link-local router is on the link by its address.
        let known = match router {
            IpAddr::V4(_) => settings.dhcp4,
            IpAddr::V6(router) => settings.dhcp6 || router.is_unicast_link_local(),
        };
        !known && !settings.addresses.iter().any(|cidr| cidr.contains(router))
    }
}

impl Network {
    /// Returns `interfaces` interfaces that all ask a DHCP server for IPv4 addresses.
    #[must_use]
    pub fn dhcp(interfaces: usize) -> Self {
        let interface = Interface { dhcp4: true, ..Interface::default() };
        Self { interfaces: vec![interface; interfaces] }
    }

    /// Checks the network and gives each interface without a MAC address the one of its place in `macs`, the machine's own, and
    /// each without a name `eth` with its place.
    ///
    /// # Errors
    ///
    /// [`Error`] says which interface breaks which rule.
    pub fn resolve(&self, macs: &[MacAddress]) -> Result<ResolvedNetwork, Error> {
        check::resolve(self, macs).map(|interfaces| ResolvedNetwork { interfaces })
    }
}

impl ResolvedNetwork {
    /// Returns each interface's MAC address and name, in order.
    pub fn interfaces(&self) -> impl Iterator<Item = (MacAddress, &str)> {
        self.interfaces.iter().map(|interface| (interface.mac, interface.name.as_str()))
    }

    /// Returns a router that is on the link of its interface without being in a network of it, and the interface's name: OpenStack's
    /// network data cannot say how to reach one.
    #[must_use]
    pub fn off_network_router(&self) -> Option<(&str, IpAddr)> {
        let mut found = self.interfaces.iter().filter_map(|interface| {
            let settings = &interface.settings;
            let gateways = settings.gateway4.map(IpAddr::from).into_iter().chain(settings.gateway6.map(IpAddr::from));
            let mut routers = gateways.chain(settings.routes.iter().map(|route| route.via));
            Some((interface.name.as_str(), routers.find(|router| interface.is_off_network(*router))?))
        });
        found.next()
    }

    /// Returns the network as cloud-init's network config, version 2, without the outer key `network`.
    ///
    /// # Spec
    ///
    /// cloud-init, reference/network-config-format-v2.
    #[must_use]
    pub fn to_network_config(&self) -> Value {
        network_config::render(&self.interfaces)
    }

    /// Returns the network as OpenStack's `network_data.json`.
    ///
    /// Names of interfaces and search domains are not in OpenStack's own schema; they are written as `name` and `dns_search`,
    /// which cloud-init reads and others ignore.
    ///
    /// # Spec
    ///
    /// OpenStack Nova, doc/api_schemas/network_data.json.
    #[must_use]
    pub fn to_network_data(&self) -> Value {
        network_data::render(&self.interfaces)
    }
}

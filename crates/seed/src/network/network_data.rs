use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Cidr, ResolvedInterface, Route};

/// Returns OpenStack's network data: links, networks on them, services.
pub(super) fn render(interfaces: &[ResolvedInterface]) -> Value {
    let mut networks: Vec<Value> = Vec::new();
    for interface in interfaces {
        for mut network in networks_of(interface) {
            network.insert("id".to_owned(), format!("network{}", networks.len()).into());
            network.insert("link".to_owned(), interface.name.clone().into());
            networks.push(network.into());
        }
    }
    let links: Vec<Value> = interfaces.iter().map(link).collect();
    let servers: BTreeSet<IpAddr> = interfaces.iter().flat_map(|interface| interface.settings.dns.iter().copied()).collect();
    let services: Vec<Value> = servers.into_iter().map(service).collect();
    json!({ "links": links, "networks": networks, "services": services })
}

fn link(interface: &ResolvedInterface) -> Value {
    json!({
        "id": interface.name,
        "name": interface.name,
        "vif_id": interface.name,
        "type": "phy",
        "ethernet_mac_address": interface.mac,
        "mtu": interface.settings.mtu,
    })
}

fn networks_of(interface: &ResolvedInterface) -> Vec<Map<String, Value>> {
    let settings = &interface.settings;
    let mut networks = Vec::new();
    for (dhcp, kind) in [(settings.dhcp4, "ipv4_dhcp"), (settings.dhcp6, "ipv6_dhcp")] {
        if dhcp {
            networks.push(Map::from_iter([("type".to_owned(), kind.into())]));
        }
    }
    networks.extend(settings.addresses.iter().map(|cidr| static_network(*cidr)));
    // A route belongs to the first network of its family, which has a static address or DHCP.
    for (ipv4, kind) in [(true, "ipv4"), (false, "ipv6")] {
        let routes = routes(interface, ipv4);
        let mine = |network: &&mut Map<String, Value>| {
            network.get("type").and_then(Value::as_str).is_some_and(|other| other.starts_with(kind))
        };
        if let Some(network) = networks.iter_mut().find(mine).filter(|_| !routes.is_empty()) {
            network.insert("routes".to_owned(), routes.into());
        }
    }
    if let Some(network) = networks.first_mut() {
        if !settings.dns.is_empty() {
            let services: Vec<Value> = settings.dns.iter().copied().map(service).collect();
            network.insert("services".to_owned(), services.into());
        }
        if !settings.search.is_empty() {
            network.insert("dns_search".to_owned(), json!(settings.search));
        }
    }
    networks
}

fn static_network(cidr: Cidr) -> Map<String, Value> {
    let kind = if cidr.address().is_ipv4() { "ipv4" } else { "ipv6" };
    Map::from_iter([
        ("type".to_owned(), kind.into()),
        ("ip_address".to_owned(), json!(cidr.address())),
        ("netmask".to_owned(), json!(cidr.netmask())),
    ])
}

fn routes(interface: &ResolvedInterface, ipv4: bool) -> Vec<Value> {
    let settings = &interface.settings;
    let gateway = if ipv4 { settings.gateway4.map(IpAddr::from) } else { settings.gateway6.map(IpAddr::from) };
    let any = if ipv4 { "0.0.0.0" } else { "::" };
    let default = gateway.map(|gateway| json!({"network": any, "netmask": any, "gateway": gateway}));
    let others = settings.routes.iter().filter(|route| route.via.is_ipv4() == ipv4).map(route);
    default.into_iter().chain(others).collect()
}

fn route(route: &Route) -> Value {
    let mut value = json!({"network": route.to.address(), "netmask": route.to.netmask(), "gateway": route.via});
    if let (Some(keys), Some(metric)) = (value.as_object_mut(), route.metric) {
        keys.insert("metric".to_owned(), metric.into());
    }
    value
}

fn service(address: IpAddr) -> Value {
    json!({"type": "dns", "address": address})
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::network::Network;

    #[test]
    fn links_and_networks_are_what_openstack_has() {
        let network: Network = serde_json::from_value(json!({"interfaces": [
            {"dhcp4": true, "mtu": 1400},
            {"name": "lan0", "addresses": ["192.0.2.10/24", "2001:db8::a/64"], "gateway4": "192.0.2.1",
             "routes": [{"to": "10.0.0.0/8", "via": "192.0.2.2"}], "dns": ["192.0.2.53"], "search": ["example.org"]},
        ]}))
        .unwrap();
        let macs = ["52:54:00:00:00:01".parse().unwrap(), "52:54:00:00:00:02".parse().unwrap()];
        let dns = json!([{"type": "dns", "address": "192.0.2.53"}]);
        let expected = json!({
            "links": [
                {"id": "eth0", "name": "eth0", "vif_id": "eth0", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:01", "mtu": 1400},
                {"id": "lan0", "name": "lan0", "vif_id": "lan0", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:02", "mtu": null},
            ],
            "networks": [
                {"id": "network0", "type": "ipv4_dhcp", "link": "eth0"},
                {"id": "network1", "type": "ipv4", "link": "lan0", "ip_address": "192.0.2.10", "netmask": "255.255.255.0",
                 "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"},
                    {"network": "10.0.0.0", "netmask": "255.0.0.0", "gateway": "192.0.2.2"}],
                 "services": dns, "dns_search": ["example.org"]},
                {"id": "network2", "type": "ipv6", "link": "lan0", "ip_address": "2001:db8::a", "netmask": "ffff:ffff:ffff:ffff::"},
            ],
            "services": dns,
        });
        assert_eq!(network.resolve(&macs).unwrap().to_network_data(), expected);
    }
}

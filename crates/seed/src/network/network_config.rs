use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::ResolvedInterface;

/// Returns network config version 2.
pub(super) fn render(interfaces: &[ResolvedInterface]) -> Value {
    let ethernets = interfaces.iter().map(|interface| (interface.name.clone(), Value::Object(ethernet(interface))));
    json!({ "version": 2, "ethernets": Value::Object(ethernets.collect()) })
}

fn ethernet(interface: &ResolvedInterface) -> Map<String, Value> {
    let settings = &interface.settings;
    let mut keys = Map::new();
    let mut set = |key: &str, value: Value| {
        keys.insert(key.to_owned(), value);
    };
    // Spec: "match … with set-name": a name alone does not find a device that the kernel has named otherwise.
    set("match", json!({ "macaddress": interface.mac.to_string() }));
    set("set-name", interface.name.clone().into());
    set("dhcp4", settings.dhcp4.into());
    set("dhcp6", settings.dhcp6.into());
    if !settings.addresses.is_empty() {
        set("addresses", json!(settings.addresses));
    }
    let routes = routes(interface);
    if !routes.is_empty() {
        set("routes", routes.into());
    }
    let mut servers = Map::new();
    if !settings.dns.is_empty() {
        servers.insert("addresses".to_owned(), json!(settings.dns));
    }
    if !settings.search.is_empty() {
        servers.insert("search".to_owned(), json!(settings.search));
    }
    if !servers.is_empty() {
        set("nameservers", servers.into());
    }
    if let Some(mtu) = settings.mtu {
        set("mtu", mtu.into());
    }
    keys
}

/// Default routes as routes, since `gateway4` and `gateway6` are deprecated.
fn routes(interface: &ResolvedInterface) -> Vec<Value> {
    let settings = &interface.settings;
    let ipv4 = settings.gateway4.map(|via| (json!({"to": "0.0.0.0/0", "via": via}), IpAddr::from(via)));
    let ipv6 = settings.gateway6.map(|via| (json!({"to": "::/0", "via": via}), IpAddr::from(via)));
    let others = settings.routes.iter().map(|route| (json!(route), route.via));
    let routes = ipv4.into_iter().chain(ipv6).chain(others).map(|(mut route, via)| {
        // Spec: netplan, `on-link`: "When set to true, specifies that the route is directly connected to the interface."
        if let Some(keys) = route.as_object_mut().filter(|_| interface.is_off_network(via)) {
            keys.insert("on-link".to_owned(), true.into());
        }
        route
    });
    routes.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::network::Network;

    #[test]
    fn each_interface_is_found_by_its_address_and_named() {
        let network: Network = serde_json::from_value(json!({"interfaces": [
            {"dhcp4": true},
            {"mac": "52:54:00:AA:BB:CC", "name": "lan0", "addresses": ["192.0.2.10/24", "2001:db8::a/64"], "gateway4": "192.0.2.1",
             "gateway6": "fe80::1", "routes": [{"to": "10.0.0.0/8", "via": "192.0.2.2", "metric": 50}],
             "dns": ["192.0.2.53"], "search": ["example.org"], "mtu": 1400},
        ]}))
        .unwrap();
        let resolved = network.resolve(&["52:54:00:00:00:01".parse().unwrap()]).unwrap();
        let expected = json!({"version": 2, "ethernets": {
            "eth0": {"match": {"macaddress": "52:54:00:00:00:01"}, "set-name": "eth0", "dhcp4": true, "dhcp6": false},
            "lan0": {"match": {"macaddress": "52:54:00:aa:bb:cc"}, "set-name": "lan0", "dhcp4": false, "dhcp6": false,
                "addresses": ["192.0.2.10/24", "2001:db8::a/64"],
                "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}, {"to": "::/0", "via": "fe80::1"},
                    {"to": "10.0.0.0/8", "via": "192.0.2.2", "metric": 50}],
                "nameservers": {"addresses": ["192.0.2.53"], "search": ["example.org"]}, "mtu": 1400},
        }});
        assert_eq!(resolved.to_network_config(), expected);
        assert_eq!(resolved.off_network_router(), None);
    }

    #[test]
    fn a_router_outside_of_the_networks_is_said_to_be_on_the_link() {
        let network: Network = serde_json::from_value(json!({"interfaces": [
            {"addresses": ["203.0.113.5/32", "2001:db8::5/128"], "gateway4": "203.0.113.1", "gateway6": "fe80::1",
             "routes": [{"to": "10.0.0.0/8", "via": "203.0.113.1"}]},
        ]}))
        .unwrap();
        let resolved = network.resolve(&["52:54:00:00:00:01".parse().unwrap()]).unwrap();
        let expected = json!([
            {"to": "0.0.0.0/0", "via": "203.0.113.1", "on-link": true}, {"to": "::/0", "via": "fe80::1"},
            {"to": "10.0.0.0/8", "via": "203.0.113.1", "on-link": true},
        ]);
        assert_eq!(resolved.to_network_config()["ethernets"]["eth0"]["routes"], expected);
        assert_eq!(resolved.off_network_router(), Some(("eth0", "203.0.113.1".parse().unwrap())));
    }
}

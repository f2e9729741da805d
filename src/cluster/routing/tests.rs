//! Properties of every rule, and the choices recorded from other clients.
use serde_json::Value;

use super::*;
use crate::pool::Address;

fn tcp(host: &str) -> Address {
    Address::Tcp { host: host.into(), port: 11211 }
}

fn plain(routing: Routing, address: &Address) -> RoutedNode {
    routing.node(address, &NodeSpec::default(), None)
}

fn parse(name: &str) -> Routing {
    Routing::parse(name, &NodeSpecs::default()).unwrap()
}

/// A key whose digits all change with the number. Hashes such as FNV-1 put keys with only different
/// last digits next to each other on a ring.
fn key(number: u64) -> Vec<u8> {
    format!("{:x}:key", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()
}

/// Rules that spread keys. twemproxy's `hash: crc32` has 15 bits, so on a ring nearly all keys
/// belong to the first point.
fn spreading_rules() -> impl Iterator<Item = (String, Routing)> {
    names().filter(|(name, _)| name != "ketama:crc32")
}

#[test]
fn every_rule_picks_a_node_of_the_list() {
    for (name, rule) in spreading_rules() {
        for count in 0..=9 {
            let nodes: Vec<_> =
                (0..count).map(|i| plain(rule, &tcp(&format!("10.0.0.{i}")))).collect();
            let (router, again) = (rule.build(&nodes), rule.build(&nodes));
            let mut keys_of = vec![0; count];
            for i in 0..2_000 {
                let picked = router.pick(&key(i));
                assert_eq!(picked, again.pick(&key(i)), "{name} {count} {i}");
                assert_eq!(picked.is_none(), count == 0, "{name} {count} {i}");
                if let Some(position) = picked {
                    keys_of[position] += 1;
                }
            }
            assert!(keys_of.iter().all(|keys| *keys > 0), "{name} {keys_of:?}");
        }
    }
}

#[test]
fn heavy_nodes_get_more_keys() {
    for (name, rule) in spreading_rules() {
        let nodes: Vec<_> = [1, 8, 1]
            .iter()
            .zip(0..)
            .map(|(weight, i)| {
                let weight = rule.has_weights().then_some(*weight);
                let spec = NodeSpec { weight, name: None };
                rule.node(&tcp(&format!("10.0.0.{i}")), &spec, None)
            })
            .collect();
        let router = rule.build(&nodes);
        let heavy = (0..2_000).filter(|i| router.pick(&key(*i)) == Some(1)).count();
        let expected = if rule.has_weights() { 1_400..1_800 } else { 400..950 };
        assert!(expected.contains(&heavy), "{name} {heavy}");
    }
}

#[test]
fn keys_that_are_not_text() {
    for (name, rule) in names() {
        let nodes = ["a", "b", "c"].map(|host| plain(rule, &tcp(host)));
        for key in [b"\xff\xfe".as_slice(), &[0x80; 250], b"\xf0\x9f", b"k"] {
            assert!(rule.build(&nodes).pick(key).is_some(), "{name} {key:?}");
        }
    }
}

/// A node of the recorded lists.
fn recorded_node(routing: Routing, node: &Value, name: Option<&str>) -> RoutedNode {
    let number = |name: &str| node[name].as_u64().map(|number| u32::try_from(number).unwrap());
    let port = u16::try_from(number("port").unwrap()).unwrap();
    let host = node["host"].as_str().unwrap().to_owned();
    let weight = number("weight").filter(|_| routing.has_weights());
    let spec = NodeSpec { weight, name: name.map(str::to_owned) };
    routing.node(&Address::Tcp { host, port }, &spec, node["ip"].as_str())
}

#[test]
fn the_choices_of_other_clients() {
    let recorded = include_str!("../../../tests/compat/routing_of_others.json");
    let recorded: Value = serde_json::from_str(recorded).unwrap();
    let mut checked = 0;
    for (client, choices) in recorded["clients"].as_object().unwrap() {
        let text = |name: &str| choices[name].as_str().unwrap();
        let routing = parse(text("routing"));
        for (list, chosen) in choices["chosen"].as_object().unwrap() {
            let nodes = recorded["lists"][list].as_array().unwrap().iter().enumerate();
            let nodes =
                nodes.map(|(at, node)| recorded_node(routing, node, choices["names"][at].as_str()));
            let nodes: Vec<_> = nodes.collect();
            let router = routing.build(&nodes);
            let keys = recorded["keys"][text("keys")].as_array().unwrap();
            assert_eq!(keys.len(), chosen.as_array().unwrap().len());
            for (key, chosen) in keys.iter().zip(chosen.as_array().unwrap()) {
                let key = format!("{}{}", text("prefix"), key.as_str().unwrap());
                let picked = router.pick(key.as_bytes()).unwrap() as u64;
                assert_eq!(Some(picked), chosen.as_u64(), "{client} {list} {key}");
                checked += 1;
            }
        }
    }
    assert!(checked > 5_000, "{checked}");
}

#[test]
fn ids_of_nodes() {
    let v6 = Address::Tcp { host: "::1".into(), port: 11222 };
    let unix = Address::Unix { path: "/run/m.sock".into() };
    let cases = [
        ("emcache", ["cache-111211", "::111222", "/run/m.sock"]),
        ("emcache-arm64", ["cache-111211", "::111222", "/run/m.sock"]),
        ("rendezvous", ["cache-1:11211", "::1:11222", "/run/m.sock"]),
        ("ketama", ["cache-1", "::1:11222", "/run/m.sock"]),
        ("spymemcached", ["cache-1:11211", "[0:0:0:0:0:0:0:1]:11222", "/run/m.sock"]),
        ("nginx-consistent", ["cache-1\x0011211", "[::1]\x0011222", "/run/m.sock\0"]),
        ("nginx-consistent:150", ["cache-1\x0011211", "::1\x0011222", "/run/m.sock\0"]),
        ("pecl-memcache", ["cache-1:11211", "[::1]:11222", "unix:///run/m.sock:0"]),
        (
            "bmemcached",
            ["cache-1:11211_None_None", "[::1]:11222_None_None", "/run/m.sock_None_None"],
        ),
        ("pymemcache", ["cache-1:11211-", "::1:11222-", "/run/m.sock-"]),
        ("meta-memcache", ["cache-1:11211", "[::1]:11222", "/run/m.sock"]),
        (
            "memcachio",
            [
                "TCPEndpoint(host='cache-1', port=11211):",
                "TCPEndpoint(host='::1', port=11222):",
                "/run/m.sock:",
            ],
        ),
    ];
    for (name, ids) in cases {
        for (address, id) in [tcp("cache-1"), v6.clone(), unix.clone()].iter().zip(ids) {
            let node = plain(parse(name), address);
            assert_eq!(String::from_utf8_lossy(&node.id), id, "{name}");
        }
    }
    let spec = NodeSpec { weight: None, name: Some("cache-a:1".into()) };
    let named = |name: &str| parse(name).node(&unix, &spec, None).id;
    assert_eq!(&*named("ketama"), b"cache-a:1");
    assert_eq!(&*named("nginx-consistent"), b"cache-a\x001");
    assert_eq!(&*named("pymemcache"), b"cache-a:1-");
    let ip = Some("10.0.0.1");
    let of_ip = |host| parse("spymemcached").node(&tcp(host), &NodeSpec::default(), ip).id;
    assert_eq!(&*of_ip("cache-1"), b"cache-1/10.0.0.1:11211");
    assert_eq!(&*of_ip("10.0.0.1"), b"10.0.0.1:11211");
}

#[test]
fn names_that_are_wrong() {
    let error = |name: &str| Routing::parse(name, &NodeSpecs::default()).unwrap_err().to_string();
    assert!(
        error("katama")
            .starts_with("routing must be one of 'emcache', 'emcache-arm64', 'rendezvous', 'keta")
    );
    assert!(error("katama").ends_with(", not 'katama'"));
    assert_eq!(error("dalli:x"), "routing 'dalli' has no options");
    assert_eq!(
        error("libmc:md5x"),
        "routing 'libmc' has no option 'md5x'; its options are crc_32, fnv1_32, fnv1a_32"
    );
}

#[test]
fn names_of_nodes_that_no_rule_reads() {
    let specs = [(tcp("a"), NodeSpec { weight: None, name: Some("b".into()) })].into();
    assert!(Routing::parse("ketama", &specs).is_ok());
    for name in ["emcache", "emcache-arm64", "crc", "gomemcache"] {
        let error = Routing::parse(name, &specs).unwrap_err();
        assert!(error.to_string().contains("does not hash names"), "{error}");
    }
}

#[test]
fn weights_that_are_wrong() {
    let error = |name: &str, weight| {
        let specs = [(tcp("a"), NodeSpec { weight: Some(weight), name: None })].into();
        Routing::parse(name, &specs).map_err(|error| error.to_string())
    };
    assert!(error("emcache", 1).unwrap_err().starts_with("routing 'emcache' ignores weights"));
    assert!(error("nginx-consistent", 65535).unwrap_err().contains("add up to 65535"));
    assert_eq!(error("nginx-consistent", 26214), Ok(Routing::Nginx(160)));
    assert_eq!(error("dalli", 65535), Ok(Routing::Dalli));
}

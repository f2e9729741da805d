//! Every rule with any nodes and keys: a node is chosen, the same one each time.
#![no_main]

use _emcache::cluster::routing::{NodeSpec, NodeSpecs, RoutedNode, Routing, names};
use _emcache::pool::Address;
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    rule: u8,
    nodes: Vec<Node>,
    keys: Vec<Vec<u8>>,
}

#[derive(Arbitrary, Debug)]
struct Node {
    host: String,
    port: u16,
    is_unix: bool,
    weight: Option<u8>,
    name: Option<String>,
    ip: Option<[u8; 4]>,
}

fuzz_target!(|input: Input| {
    let known: Vec<_> = names().collect();
    let (name, routing) = &known[usize::from(input.rule) % known.len()];
    let mut specs = NodeSpecs::new();
    let mut routed: Vec<RoutedNode> = Vec::new();
    for node in input.nodes.iter().take(12) {
        let address = if node.is_unix {
            Address::Unix { path: node.host.clone() }
        } else {
            Address::Tcp { host: node.host.clone(), port: node.port }
        };
        let weight = node.weight.filter(|_| routing.has_weights()).map(|w| u32::from(w % 4) + 1);
        let spec = NodeSpec { weight, name: node.name.clone().filter(|_| routing.hashes_names()) };
        let ip = node.ip.map(|ip| std::net::Ipv4Addr::from(ip).to_string());
        routed.push(routing.node(&address, &spec, ip.as_deref()));
        specs.insert(address, spec);
    }
    assert_eq!(Routing::parse(name, &specs).ok(), Some(*routing));
    let (router, again) = (routing.build(&routed), routing.build(&routed));
    for key in input.keys.iter().filter(|key| (1..=250).contains(&key.len())) {
        let chosen = router.pick(key);
        assert_eq!(chosen.is_some(), !routed.is_empty());
        assert!(chosen.is_none_or(|at| at < routed.len()));
        assert_eq!(chosen, router.pick(key));
        assert_eq!(chosen, again.pick(key));
    }
});

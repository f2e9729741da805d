//! Nodes as the rules see them.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::{Routing, emcache};
use crate::pool::Address;

/// A node as its rule sees it.
#[derive(Clone, Debug)]
pub struct RoutedNode {
    /// The bytes that the rule hashes for the node.
    pub id: Arc<[u8]>,
    /// The node's share of the keys, relative to the other nodes. A rule without weights ignores
    /// it.
    pub weight: u32,
}

/// The options of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    pub weight: Option<u32>,
    /// The name by which other clients know the node, in place of its address.
    pub name: Option<String>,
}

/// Nodes that are not listed have the weight 1.
pub type NodeSpecs = HashMap<Address, NodeSpec>;

const DEFAULT_PORT: u16 = 11211;

impl Routing {
    /// Called once for each node, when it is added. `ip` is its IP address, if known.
    pub fn node(self, address: &Address, spec: &NodeSpec, ip: Option<&str>) -> RoutedNode {
        let weight = spec.weight.unwrap_or(1);
        if self.is_of_1_3() {
            return RoutedNode { id: emcache::node_id(address), weight };
        }
        let name = spec.name.clone().unwrap_or_else(|| self.name(address, ip));
        let id = match self {
            Self::Memcachio => format!("{name}:").into_bytes().into(),
            Self::Bmemcached => format!("{name}_None_None").into_bytes().into(),
            Self::Nginx(_) => match name.rsplit_once(':') {
                Some((host, port)) if !name.starts_with('/') => {
                    format!("{host}\0{port}").into_bytes().into()
                }
                _ => format!("{name}\0").into_bytes().into(),
            },
            // The lowest byte of each code point is hashed.
            #[allow(clippy::cast_possible_truncation)]
            Self::Pymemcache { .. } => {
                format!("{name}-").chars().map(|char| u32::from(char) as u8).collect()
            }
            _ => name.into_bytes().into(),
        };
        RoutedNode { id, weight }
    }

    /// The name that the rule hashes for a node.
    fn name(self, address: &Address, ip: Option<&str>) -> String {
        match (self, address) {
            (Self::Pecl(_), Address::Unix { path }) => format!("unix://{path}:0"),
            (_, Address::Unix { path }) => path.clone(),
            (
                Self::Ketama(_) | Self::Libmc(_) | Self::LibmemcachedConsistent,
                Address::Tcp { host, port: DEFAULT_PORT },
            ) => host.clone(),
            (Self::Memcachio, Address::Tcp { host, port }) => {
                format!("TCPEndpoint(host='{host}', port={port})")
            }
            // With brackets around an IPv6 address.
            (Self::MetaMemcache | Self::Bmemcached | Self::Nginx(160) | Self::Pecl(_), _) => {
                address.to_string()
            }
            (Self::Spymemcached, Address::Tcp { host, port }) => match ip {
                Some(ip) if host.parse::<IpAddr>().is_err() => {
                    format!("{host}/{}:{port}", java_ip(ip))
                }
                _ => format!("{}:{port}", java_ip(host)),
            },
            (_, Address::Tcp { host, port }) => format!("{host}:{port}"),
        }
    }

    /// Whether the rule hashes the IP addresses of nodes, in addition to their hosts.
    pub fn hashes_ips(self) -> bool {
        self == Self::Spymemcached
    }
}

/// An IP address as Java writes it from version 14 on. Other texts are returned unchanged.
fn java_ip(text: &str) -> String {
    let Ok(ip) = text.parse::<Ipv6Addr>() else {
        return text.to_owned();
    };
    let segments = ip.segments().map(|segment| format!("{segment:x}"));
    format!("[{}]", segments.join(":"))
}

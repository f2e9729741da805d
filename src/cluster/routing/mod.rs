//! The rules that choose a key's node. A new rule is a file here and a variant of both enums: see
//! docs/design/routing.md.
mod emcache;

use std::rc::Rc;

use self::emcache::EmcacheRouter;
#[cfg(test)]
pub use self::emcache::plain;
use crate::pool::Address;

/// A rule and its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// The rule of emcache 1.3.
    #[default]
    Emcache,
}

/// A node as its rule sees it.
#[derive(Clone, Debug)]
pub struct RoutedNode {
    /// The bytes that the rule hashes for the node.
    pub id: Rc<[u8]>,
    /// The node's share of the keys, relative to the other nodes. A rule without weights ignores
    /// it.
    pub weight: u32,
}

impl Routing {
    /// Called once for each node, when it is added.
    pub fn node(self, address: &Address) -> RoutedNode {
        match self {
            Self::Emcache => RoutedNode { id: emcache::node_id(address), weight: 1 },
        }
    }

    /// Called for the first key after each change of the nodes, their order or their health. Work
    /// that few keys need belongs in the router's first `pick`.
    pub fn build(self, nodes: impl IntoIterator<Item = RoutedNode>) -> Router {
        match self {
            Self::Emcache => {
                Router::Emcache(EmcacheRouter::new(nodes.into_iter().map(|node| node.id)))
            }
        }
    }
}

/// A rule applied to a list of nodes. An enum, because a call through a table of functions would
/// cost every request.
#[derive(Debug)]
pub enum Router {
    Emcache(EmcacheRouter),
}

impl Router {
    /// The position of the key's node in the list; `None` if the list is empty.
    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        match self {
            Self::Emcache(router) => router.pick(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules that any list of nodes has to hold. Add each rule.
    const RULES: [Routing; 1] = [Routing::Emcache];

    fn tcp(host: &str) -> Address {
        Address::Tcp { host: host.into(), port: 11211 }
    }

    #[test]
    fn every_rule_picks_a_node_of_the_list() {
        for rule in RULES {
            for count in 0..=9 {
                let nodes: Vec<_> =
                    (0..count).map(|i| rule.node(&tcp(&format!("10.0.0.{i}")))).collect();
                let (router, again) = (rule.build(nodes.clone()), rule.build(nodes));
                let mut keys_of = vec![0; count];
                for i in 0..2_000 {
                    let key = format!("key:{i}");
                    let picked = router.pick(key.as_bytes());
                    assert_eq!(picked, again.pick(key.as_bytes()), "{rule:?} {count} {key}");
                    assert_eq!(picked.is_none(), count == 0, "{rule:?} {count} {key}");
                    if let Some(position) = picked {
                        keys_of[position] += 1;
                    }
                }
                assert!(keys_of.iter().all(|keys| *keys > 0), "{rule:?} {keys_of:?}");
            }
        }
    }

    #[test]
    fn ids_of_the_emcache_rule() {
        let id = |address: &Address| Routing::Emcache.node(address).id;
        assert_eq!(&*id(&tcp("cache-1")), b"cache-111211");
        assert_eq!(&*id(&tcp("::1")), b"::111211");
        assert_eq!(&*id(&Address::Unix { path: "/run/m.sock".into() }), b"/run/m.sock");
    }
}

//! Where a node is, and where it was.
use std::net::IpAddr;

/// The current and former addresses of a node.
#[derive(Default)]
pub(super) struct NodeLocation {
    /// The current address, if it is known. It is dialed before the name is resolved.
    pub ip: Option<IpAddr>,
    /// The last known address.
    pub last: Option<IpAddr>,
    /// Addresses that the node has left. Its name may still resolve to them for a while.
    pub former_addresses: Vec<IpAddr>,
    /// Whether [`track`] runs.
    pub is_tracked: bool,
}

impl NodeLocation {
    pub fn is_former(&self, peer: Option<IpAddr>) -> bool {
        peer.is_some_and(|peer| self.former_addresses.contains(&peer))
    }
}

//! Where a node is, and where it was.
use std::net::IpAddr;

/// The number of former addresses that are remembered.
const MAX_FORMER_ADDRESSES: usize = 16;

/// The effect of a new address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relocation {
    /// The address is the last known one, or unknown.
    None,
    /// The first known address.
    First,
    Moved,
}

/// The current and former addresses of a node. Invariant: the last known address is not a former
/// one.
#[derive(Default)]
pub(super) struct NodeLocation {
    /// The current address, if it is known.
    ip: Option<IpAddr>,
    /// The last known address.
    last: Option<IpAddr>,
    /// Addresses that the node has left. Its name may still resolve to them for a while.
    former_addresses: Vec<IpAddr>,
    /// Whether a task of [`super::relocation`] dials the current address.
    is_tracked: bool,
}

impl NodeLocation {
    /// The current address, if it is known. It is dialed before the name is resolved.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    pub fn former_addresses(&self) -> &[IpAddr] {
        &self.former_addresses
    }

    pub fn is_former(&self, peer: Option<IpAddr>) -> bool {
        peer.is_some_and(|peer| self.former_addresses.contains(&peer))
    }

    /// Records the node's address. If the node has moved, `peers` are former addresses too.
    pub fn set(&mut self, ip: Option<IpAddr>, peers: impl Iterator<Item = IpAddr>) -> Relocation {
        self.ip = ip;
        let Some(ip) = ip else { return Relocation::None };
        let before = self.last.replace(ip);
        if before == Some(ip) {
            return Relocation::None;
        }
        let Some(before) = before else { return Relocation::First };
        for address in peers.chain([before]) {
            if !self.former_addresses.contains(&address) {
                self.former_addresses.push(address);
            }
        }
        self.former_addresses.retain(|address| *address != ip);
        let surplus = self.former_addresses.len().saturating_sub(MAX_FORMER_ADDRESSES);
        self.former_addresses.drain(..surplus);
        Relocation::Moved
    }

    /// Returns whether the address was not tracked before.
    pub fn start_tracking(&mut self) -> bool {
        !std::mem::replace(&mut self.is_tracked, true)
    }

    pub fn stop_tracking(&mut self) {
        self.is_tracked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn a_node_that_returns_is_not_at_a_former_address() {
        let mut location = NodeLocation::default();
        let none = std::iter::empty;
        assert_eq!(location.set(Some(ip(1)), none()), Relocation::First);
        assert_eq!(location.set(Some(ip(1)), none()), Relocation::None);
        assert_eq!(location.set(Some(ip(2)), [ip(9), ip(1)].into_iter()), Relocation::Moved);
        assert_eq!(location.former_addresses(), [ip(9), ip(1)]);
        assert_eq!(location.set(None, none()), Relocation::None);
        assert_eq!(location.set(Some(ip(1)), none()), Relocation::Moved);
        assert!(location.is_former(Some(ip(2))) && !location.is_former(Some(ip(1))));
        assert!(!location.is_former(None));
    }

    #[test]
    fn the_latest_former_addresses_are_remembered() {
        let mut location = NodeLocation::default();
        for last in 0..=20 {
            location.set(Some(ip(last)), std::iter::empty());
        }
        assert_eq!(location.former_addresses().len(), MAX_FORMER_ADDRESSES);
        assert!(location.is_former(Some(ip(19))) && !location.is_former(Some(ip(3))));
    }
}

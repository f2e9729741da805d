//! Many nodes: routing of keys, and health. Never Python.
//!
//! | file | purpose |
//! |---|---|
//! | `cluster` | the nodes of a client: added, removed, healthy or not |
//! | `failover` | which node serves the keys of a node that is down, and which copies are outdated |
//! | `former` | the list of nodes that keys come from during a migration |
//! | `order` | the nodes that get keys, in the order that decides ties |
//! | `routing` | the rules that choose a key's node, a file each |
//! | `lines` | the keys of one call, split into lines for each node |
#[allow(clippy::module_inception, reason = "the cluster of this layer")]
mod cluster;
pub mod failover;
mod former;
mod lines;
mod order;
pub mod routing;

pub use cluster::{
    Cluster, ClusterConfig, ClusterError, NodeChange, NodeEvent, NodeMetrics, NodeUpdate,
};
pub use former::NodeList;
pub use order::RoutingOrder;

//! Many nodes: which one gets a key, and which of them are well. Never Python.
#[allow(clippy::module_inception, reason = "the cluster of this layer")]
mod cluster;
pub mod rendezvous;

pub use cluster::{Cluster, ClusterConfig, ClusterError, NodeChange, NodeMetrics};

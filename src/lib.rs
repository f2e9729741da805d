//! The core of emcache.
//!
//! # Layout
//! - [`protocol`]: memcached's wire format; pure.
//! - [`pool`]: connections and the pool of one node; Tokio, never Python.
//! - [`cluster`]: many nodes, and which one gets a key.
pub mod cluster;
pub mod pool;
pub mod protocol;

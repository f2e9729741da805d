//! The core of emcache.
//!
//! # Layout
//! - [`protocol`]: memcached's wire format; pure.
pub mod protocol;

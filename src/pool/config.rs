//! The settings of a pool.
use std::sync::Arc;
use std::time::Duration;

use super::open::Security;

#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub min_connections: usize,
    pub max_connections: usize,
    pub purge_unused_after: Option<Duration>,
    pub connection_timeout: Option<Duration>,
    /// The client's timeout, from which deadlines are computed; `None` for no deadlines.
    pub timeout: Option<Duration>,
    pub max_merged_keys: u32,
    pub security: Arc<Security>,
}

//! How often the process was forked, as seen by the children.
use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// An object that was created at another count belongs to a parent of this process.
pub fn fork_count() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Called once in each child.
pub fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

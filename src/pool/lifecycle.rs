//! The end of a pool.
use super::error::ErrorKind;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lifecycle {
    #[default]
    Open,
    Closed,
    /// The pool was closed because its node was removed from the cluster.
    Removed,
}

impl Lifecycle {
    #[inline]
    pub fn is_open(self) -> bool {
        self == Self::Open
    }

    /// The reason why every request is refused, if it is.
    pub fn refusal(self) -> Option<ErrorKind> {
        match self {
            Self::Open => None,
            Self::Closed => Some(ErrorKind::Closed),
            Self::Removed => Some(ErrorKind::Removed),
        }
    }

    /// Closes the pool for good.
    pub fn close(&mut self) {
        if self.is_open() {
            *self = Self::Closed;
        }
    }

    /// Closes the pool of a removed node.
    pub fn remove(&mut self) {
        *self = Self::Removed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_node_stays_removed_when_the_pool_is_closed() {
        let mut lifecycle = Lifecycle::default();
        assert!(lifecycle.is_open() && lifecycle.refusal().is_none());
        lifecycle.close();
        assert!(matches!(lifecycle.refusal(), Some(ErrorKind::Closed)));
        lifecycle.remove();
        lifecycle.close();
        assert!(matches!(lifecycle.refusal(), Some(ErrorKind::Removed)));
    }
}

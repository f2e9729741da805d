//! The rules that choose a key's node. A new rule is a file here and a variant of both enums: see
//! docs/design/routing.md.
mod dalli;
mod emcache;
mod hash;
mod ketama;
mod libmc;
#[cfg(target_arch = "x86_64")]
mod md5_avx2;
mod md5_lanes;
mod md5_names;
mod memcachio;
mod modulo;
mod murmur3;
mod names;
mod nginx;
mod node;
mod pecl;
mod pymemcache;
mod rendezvous;
mod ring;
mod uhashring;

use self::emcache::{Chars, EmcacheRouter};
#[cfg(test)]
pub use self::emcache::{Chars as PlainChars, plain};
pub use self::hash::KeyHash;
use self::memcachio::MemcachioRouter;
use self::modulo::ModuloRouter;
pub use self::names::{RoutingError, names};
pub use self::node::{NodeSpec, NodeSpecs, RoutedNode};
use self::pecl::PeclRouter;
use self::pymemcache::PymemcacheRouter;
use self::rendezvous::RendezvousRouter;
use self::ring::RingRouter;
use self::uhashring::UhashringRouter;

/// A rule and its options. [`Self::parse`] creates it from its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// The rule of emcache 1.3.
    #[default]
    Emcache,
    /// The rule of emcache 1.3 on Linux/arm64.
    EmcacheArm64,
    Rendezvous,
    Ketama(KeyHash),
    /// The points of ketama, with other names of the nodes.
    Spymemcached,
    Dalli,
    /// The hash modulo the number of nodes, or with weights modulo their sum.
    Modulo {
        hash: KeyHash,
        has_weights: bool,
    },
    /// libmemcached's consistent distribution, with its default hash.
    LibmemcachedConsistent,
    /// The number is that of points for each unit of weight.
    Nginx(u32),
    Pymemcache {
        /// Whether the keys are `bytes` in Python.
        is_bytes: bool,
    },
    Libmc(KeyHash),
    MetaMemcache,
    /// The points of `meta-memcache`, with other names of the nodes.
    Bmemcached,
    Memcachio,
    Pecl(KeyHash),
}

impl Routing {
    /// Called for the first key after each change of the nodes, their order or, where it matters,
    /// their health. Work that few keys need belongs in the router's first `pick`.
    pub fn build(self, nodes: &[RoutedNode]) -> Router {
        match self {
            Self::Emcache => Router::Emcache(emcache::router(nodes, Chars::Signed)),
            Self::EmcacheArm64 => Router::Emcache(emcache::router(nodes, Chars::Unsigned)),
            Self::Rendezvous => Router::Rendezvous(RendezvousRouter::new(nodes)),
            Self::Ketama(hash) => Router::Ring(ketama::router(nodes, hash)),
            Self::Spymemcached => {
                Router::Ring(ketama::router(nodes, KeyHash::Md5).last_of_equals())
            }
            Self::Dalli => Router::Ring(dalli::router(nodes)),
            Self::Modulo { hash, .. } => Router::Modulo(ModuloRouter::new(nodes, hash)),
            Self::LibmemcachedConsistent => Router::Ring(libmc::libmemcached_router(nodes)),
            Self::Nginx(points) => Router::Ring(nginx::router(nodes, points)),
            Self::Pymemcache { is_bytes } => {
                Router::Pymemcache(PymemcacheRouter::new(nodes, is_bytes))
            }
            Self::Libmc(hash) => Router::Ring(libmc::router(nodes, hash)),
            Self::MetaMemcache | Self::Bmemcached => Router::Uhashring(UhashringRouter::new(nodes)),
            Self::Memcachio => Router::Memcachio(MemcachioRouter::new(nodes)),
            Self::Pecl(hash) => Router::Pecl(PeclRouter::new(nodes, hash)),
        }
    }

    /// Whether nodes move in the list when their health changes, as in emcache 1.3. The other rules
    /// need the list in the order given.
    pub fn follows_health(self) -> bool {
        self.is_of_1_3()
    }

    fn is_of_1_3(self) -> bool {
        matches!(self, Self::Emcache | Self::EmcacheArm64)
    }

    pub fn has_weights(self) -> bool {
        match self {
            Self::Rendezvous
            | Self::Ketama(_)
            | Self::Dalli
            | Self::LibmemcachedConsistent
            | Self::Nginx(_)
            | Self::Pecl(_) => true,
            Self::Modulo { has_weights, .. } => has_weights,
            Self::Emcache
            | Self::EmcacheArm64
            | Self::Spymemcached
            | Self::Pymemcache { .. }
            | Self::Libmc(_)
            | Self::MetaMemcache
            | Self::Bmemcached
            | Self::Memcachio => false,
        }
    }

    /// Whether names of nodes can replace their addresses.
    pub fn hashes_names(self) -> bool {
        !self.is_of_1_3() && !matches!(self, Self::Modulo { .. })
    }

    /// The points for each unit of weight, where their number depends on nothing else.
    fn points_of_weight(self) -> Option<u32> {
        match self {
            Self::Nginx(points) => Some(points),
            Self::Pecl(_) => Some(pecl::POINTS),
            _ => None,
        }
    }
}

/// A rule applied to a list of nodes. An enum, because a call through a table of functions would
/// cost every request.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a client has one")]
pub enum Router {
    Emcache(EmcacheRouter),
    Rendezvous(RendezvousRouter),
    Ring(RingRouter),
    Modulo(ModuloRouter),
    Pymemcache(PymemcacheRouter),
    Uhashring(UhashringRouter),
    Memcachio(MemcachioRouter),
    Pecl(PeclRouter),
}

impl Router {
    /// The position of the key's node in the list; `None` if the list is empty.
    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        match self {
            Self::Emcache(router) => router.pick(key),
            Self::Rendezvous(router) => router.pick(key),
            Self::Ring(router) => router.pick(key),
            Self::Modulo(router) => router.pick(key),
            Self::Pymemcache(router) => router.pick(key),
            Self::Uhashring(router) => router.pick(key),
            Self::Memcachio(router) => router.pick(key),
            Self::Pecl(router) => router.pick(key),
        }
    }
}

#[cfg(test)]
mod tests;

//! Routing one key among many nodes.
use std::hint::black_box;
use std::time::Duration;

use _emcache::cluster::routing::{self, NodeSpec, RoutedNode, Routing};
use _emcache::pool::Address;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const NODE_COUNTS: [usize; 4] = [1, 5, 64, 256];
const KEY_LENS: [usize; 4] = [8, 20, 60, 250];
/// The rules of `bench_rules`. Others differ from these only in the names of their nodes or in the
/// hash of the key.
const RULES: [&str; 11] = [
    "emcache",
    "rendezvous",
    "ketama",
    "dalli",
    "libmemcached",
    "crc",
    "nginx-consistent",
    "pymemcache",
    "libmc",
    "meta-memcache",
    "memcachio",
];

fn rule(name: &str) -> Routing {
    let rule = routing::names().find(|(known, _)| known == name);
    rule.map(|(_, rule)| rule).unwrap_or_default()
}

fn nodes(rule: Routing, count: usize, host: impl Fn(usize) -> String) -> Vec<RoutedNode> {
    let address = |i| Address::Tcp { host: host(i), port: 11211 };
    (0..count).map(|i| rule.node(&address(i), &NodeSpec::default(), None)).collect()
}

fn short_ids(rule: Routing, count: usize) -> Vec<RoutedNode> {
    nodes(rule, count, |i| format!("10.0.{}.{}", i / 256, i % 256))
}

/// Ids of autodiscovered nodes.
fn long_ids(rule: Routing, count: usize) -> Vec<RoutedNode> {
    nodes(rule, count, |i| format!("sessions.fnjyzo.{i:04}.use1.cache.amazonaws.com"))
}

fn bench_pick(c: &mut Criterion) {
    for (name, ids) in
        [("pick", short_ids as fn(Routing, usize) -> _), ("pick, long ids", long_ids)]
    {
        let mut group = c.benchmark_group(name);
        for count in NODE_COUNTS {
            let router = Routing::Emcache.build(&ids(Routing::Emcache, count));
            for len in KEY_LENS {
                let key = vec![b'k'; len];
                group.bench_function(BenchmarkId::new(format!("{count} nodes"), len), |b| {
                    b.iter(|| router.pick(black_box(&key)));
                });
            }
        }
    }
}

/// Different keys of 20 bytes, so that each search of a ring reads other points.
fn bench_rules(c: &mut Criterion) {
    let keys: Vec<_> = (0..4096).map(|i| format!("user:{i:07}:profile")).collect();
    for name in RULES {
        let mut group = c.benchmark_group(format!("rule {name}"));
        for count in [64, 1000] {
            let router = rule(name).build(&short_ids(rule(name), count));
            let mut next = 0;
            group.bench_function(format!("{count} nodes"), |b| {
                b.iter(|| {
                    next = (next + 1) % keys.len();
                    router.pick(black_box(keys[next].as_bytes()))
                });
            });
        }
    }
}

/// The first key of a client, or after a change of its nodes.
fn bench_first(c: &mut Criterion) {
    for name in RULES {
        let mut group = c.benchmark_group(format!("first key, {name}"));
        for count in [5, 64, 1000] {
            let nodes = short_ids(rule(name), count);
            group.bench_function(format!("{count} nodes"), |b| {
                b.iter(|| rule(name).build(&nodes).pick(black_box(b"bench:000001:key")));
            });
        }
    }
}

fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(name = benches; config = config(); targets = bench_pick, bench_rules, bench_first);
criterion_main!(benches);

//! Routing one key among many nodes.
use std::hint::black_box;
use std::time::Duration;

use _emcache::cluster::routing::{RoutedNode, Routing};
use _emcache::pool::Address;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const NODE_COUNTS: [usize; 4] = [1, 5, 64, 256];
const KEY_LENS: [usize; 4] = [8, 20, 60, 250];

const RULE: Routing = Routing::Emcache;

fn nodes(count: usize, host: impl Fn(usize) -> String) -> Vec<RoutedNode> {
    (0..count).map(|i| RULE.node(&Address::Tcp { host: host(i), port: 11211 })).collect()
}

fn short_ids(count: usize) -> Vec<RoutedNode> {
    nodes(count, |i| format!("10.0.0.{i}"))
}

/// Ids of autodiscovered nodes.
fn long_ids(count: usize) -> Vec<RoutedNode> {
    nodes(count, |i| format!("sessions.fnjyzo.{i:04}.use1.cache.amazonaws.com"))
}

fn bench_pick(c: &mut Criterion) {
    for (name, ids) in [("pick", short_ids as fn(usize) -> _), ("pick, long ids", long_ids)] {
        let mut group = c.benchmark_group(name);
        for count in NODE_COUNTS {
            let router = RULE.build(ids(count));
            for len in KEY_LENS {
                let key = vec![b'k'; len];
                group.bench_function(BenchmarkId::new(format!("{count} nodes"), len), |b| {
                    b.iter(|| router.pick(black_box(&key)));
                });
            }
        }
    }
}

/// The first key of a client, or after a change of its nodes.
fn bench_first(c: &mut Criterion) {
    let mut group = c.benchmark_group("first key");
    for count in NODE_COUNTS {
        let nodes = short_ids(count);
        group.bench_function(format!("{count} nodes"), |b| {
            b.iter(|| RULE.build(nodes.iter().cloned()).pick(black_box(b"bench:000001:key")));
        });
    }
}

fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(name = benches; config = config(); targets = bench_pick, bench_first);
criterion_main!(benches);

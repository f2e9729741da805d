//! Routing one key among many nodes.
use std::hint::black_box;

use _emcache::cluster::rendezvous::{RingNode, pick};
use criterion::{Criterion, criterion_group, criterion_main};

fn bench_pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for count in [1, 5, 16, 64, 256] {
        let nodes: Vec<RingNode> =
            (0..count).map(|i| RingNode::new(format!("10.0.0.{i}11211"))).collect();
        group.bench_function(format!("{count} nodes"), |b| {
            b.iter(|| pick(black_box(b"bench:000001:key"), nodes.iter()));
        });
    }
    group.finish();
}

criterion_group!(benches, bench_pick);
criterion_main!(benches);

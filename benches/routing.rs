//! Routing one key among many nodes.
use std::hint::black_box;
use std::time::Duration;

use _emcache::cluster::rendezvous::{RingNode, pick};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const NODE_COUNTS: [usize; 4] = [1, 5, 64, 256];
const KEY_LENS: [usize; 4] = [8, 20, 60, 250];

fn short_ids(count: usize) -> Vec<RingNode> {
    (0..count).map(|i| RingNode::new(format!("10.0.0.{i}11211"))).collect()
}

/// As autodiscovery has them.
fn long_ids(count: usize) -> Vec<RingNode> {
    let host = |i| format!("sessions.fnjyzo.{i:04}.use1.cache.amazonaws.com11211");
    (0..count).map(|i| RingNode::new(host(i))).collect()
}

fn bench_pick(c: &mut Criterion) {
    for (name, ids) in [("pick", short_ids as fn(usize) -> _), ("pick, long ids", long_ids)] {
        let mut group = c.benchmark_group(name);
        for count in NODE_COUNTS {
            let nodes = ids(count);
            for len in KEY_LENS {
                let key = vec![b'k'; len];
                group.bench_function(BenchmarkId::new(format!("{count} nodes"), len), |b| {
                    b.iter(|| pick(black_box(&key), nodes.iter()));
                });
            }
        }
    }
}

fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(name = benches; config = config(); targets = bench_pick);
criterion_main!(benches);

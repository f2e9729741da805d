//! A connection over an in-memory duplex: push, write, read, answer.
mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{Wire, answer, keys};

fn bench_connection(c: &mut Criterion) {
    let mut group = c.benchmark_group("connection");
    for (count, size) in [(1, 100), (32, 100), (256, 100), (1, 10_000), (1, 100_000)] {
        let keys = keys(count);
        let text = answer(&keys, 32, size);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} gets of {size}"), |b| {
            let mut wire = Wire::new(32);
            b.iter(|| wire.gets(&keys, &text));
        });
    }
    let (keys, value, text) = (keys(32), [b'v'; 100], "STORED\r\n".repeat(32));
    group.throughput(Throughput::Elements(32));
    group.bench_function("32 sets of 100", |b| {
        let mut wire = Wire::new(32);
        b.iter(|| wire.sets(&keys, &value, &text));
    });
    group.finish();
}

criterion_group!(benches, bench_connection);
criterion_main!(benches);

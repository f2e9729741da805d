//! Checking keys, encoding requests and decoding replies.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]
mod support;

use std::hint::black_box;

use _emcache::protocol::{Decoder, Dialect, Key, NEVER, Outgoing, Pipeline, Shape, encode};
use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{Counting, answer, keys, set, with_get};

fn bench_key(c: &mut Criterion) {
    let mut group = c.benchmark_group("key");
    for len in [16, 250] {
        let text = vec![b'k'; len];
        group.bench_function(format!("{len} bytes"), |b| b.iter(|| Key::parse(black_box(&text))));
    }
    group.finish();
}

fn bench_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let (mut out, mut line) = (BytesMut::with_capacity(1 << 20), Outgoing::default());
    group.bench_function("get", |b| {
        // Gets are encoded by a pipeline; a new one for each run does not grow.
        b.iter(|| {
            let mut pipeline = Pipeline::new(Dialect::default(), 1, "node".into());
            line.clear();
            let name = black_box("bench:000001:key");
            with_get(name, |get| pipeline.push(get, Counting::default(), NEVER, &mut line));
            line.len()
        });
    });
    for size in [100, 10_000] {
        let value = vec![b'v'; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("set {size}"), |b| {
            b.iter(|| {
                out.clear();
                encode(&set(black_box("bench:000001:key"), &value), &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

fn bench_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (size, count) in [(100, 32), (10_000, 32)] {
        let wire = answer(&keys(count), count, size);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} items of {size}"), |b| {
            let mut decoder = Decoder::default();
            let shape = Shape::Retrieval { cas: false };
            b.iter(|| {
                let (mut pos, buf) = (0, black_box(wire.as_bytes()));
                while let Ok(Some((frame, len))) = decoder.next(&buf[pos..], shape) {
                    black_box(frame);
                    pos += len;
                }
                assert_eq!(pos, buf.len());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench_key, bench_encode, bench_decode);
criterion_main!(benches);

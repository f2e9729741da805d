//! A burst through the pipeline: push, encode, decode, match.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]
mod support;

use std::hint::black_box;

use _emcache::protocol::{Dialect, NEVER, NodeStats, Outgoing, Pipeline, Request};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{Counting, answer, keys, set, with_get};

fn bench_gets(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(256));
    let keys = keys(256);
    for (name, merged) in [("merged by 32", 32), ("one line each", 1)] {
        let text = answer(&keys, merged as usize, 100);
        group.bench_function(format!("256 gets, {name}"), |b| {
            let mut pipeline = Pipeline::new(Dialect::default(), merged, "node".into());
            let (mut out, mut stats) = (Outgoing::default(), NodeStats::default());
            b.iter(|| {
                out.clear();
                for key in &keys {
                    with_get(key, |get| pipeline.push(get, Counting::default(), NEVER, &mut out));
                }
                pipeline.close_line(&mut out);
                let used =
                    pipeline.feed(black_box(text.as_bytes()), u64::MAX, 0, &mut stats).unwrap();
                assert_eq!(used, text.len());
            });
        });
    }
    group.finish();
}

fn bench_sets(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(256));
    let (keys, value, text) = (keys(256), [b'v'; 100], "STORED\r\n".repeat(256));
    group.bench_function("256 sets of 100", |b| {
        let mut pipeline = Pipeline::new(Dialect::default(), 32, "node".into());
        let (mut out, mut stats) = (Outgoing::default(), NodeStats::default());
        b.iter(|| {
            out.clear();
            for key in &keys {
                let request = Request::Command(set(key, &value));
                pipeline.push(&request, Counting::default(), NEVER, &mut out);
            }
            let used = pipeline.feed(black_box(text.as_bytes()), u64::MAX, 0, &mut stats).unwrap();
            assert_eq!(used, text.len());
        });
    });
    group.finish();
}

criterion_group!(benches, bench_gets, bench_sets);
criterion_main!(benches);

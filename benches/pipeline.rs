//! A burst of gets through the pipeline: push, encode, decode, match.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]
use std::fmt::Write;
use std::hint::black_box;

use _emcache::protocol::{
    ItemRef, Key, NEVER, Pipeline, Reply, Request, RetrievalVerb, Sink, StatLine,
};
use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Counts what arrives.
struct Counting(u64);

impl Sink for Counting {
    fn item(&mut self, _index: usize, item: &ItemRef<'_>) {
        self.0 += item.value.len() as u64;
    }
    fn stat(&mut self, _stat: &StatLine<'_>) {}
    fn restart(&mut self) {}
    fn reply(self, reply: &Reply<'_>) {
        black_box((self.0, reply));
    }
}

fn bench_burst(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    let keys: Vec<String> = (0..256).map(|i| format!("bench:{i:06}:key")).collect();
    let value = "v".repeat(100);
    for (name, merged) in [("merged by 32", 32), ("one line each", 1)] {
        let mut answer = String::new();
        for (i, key) in keys.iter().enumerate() {
            let _ = write!(answer, "VALUE {key} 0 100\r\n{value}\r\n");
            if (i + 1) % merged as usize == 0 {
                answer.push_str("END\r\n");
            }
        }
        group.throughput(Throughput::Elements(256));
        group.bench_function(format!("256 gets, {name}"), |b| {
            let mut pipeline = Pipeline::new(merged);
            let mut out = BytesMut::with_capacity(1 << 16);
            b.iter(|| {
                out.clear();
                for key in &keys {
                    let key = Key::parse(key.as_bytes()).unwrap();
                    let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &[key] };
                    pipeline.push(&request, Counting(0), NEVER, &mut out);
                }
                pipeline.close_line(&mut out);
                let used = pipeline.feed(black_box(answer.as_bytes()), u64::MAX).unwrap();
                assert_eq!(used, answer.len());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench_burst);
criterion_main!(benches);

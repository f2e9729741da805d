//! Encoding requests and decoding replies.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]
use std::fmt::Write;
use std::hint::black_box;

use _emcache::protocol::{Command, Decoder, Key, Shape, StorageVerb, encode};
use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn bench_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let mut out = BytesMut::with_capacity(1 << 20);
    for size in [100, 10_000] {
        let value = vec![b'v'; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("set {size}"), |b| {
            b.iter(|| {
                out.clear();
                let key = Key::parse(black_box(b"bench:000001:key")).unwrap();
                let (verb, flags, exptime) = (StorageVerb::Set, 0, 60);
                encode(&Command::Storage { verb, key, flags, exptime, value: &value }, &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

fn bench_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (size, count) in [(100, 32), (10_000, 32)] {
        let value = "v".repeat(size);
        let mut wire = String::new();
        for i in 0..count {
            let _ = write!(wire, "VALUE bench:{i:06}:key 0 {size}\r\n{value}\r\n");
        }
        wire.push_str("END\r\n");
        group.throughput(Throughput::Elements(count));
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

criterion_group!(benches, bench_encode, bench_decode);
criterion_main!(benches);

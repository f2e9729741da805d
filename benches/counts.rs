//! Operations to count: instructions with callgrind, allocations with the allocator of this
//! program.
//!
//! `counts` lists the cases. `counts CASE N` runs a case N times, after enough runs to grow all
//! buffers. It prints the number of operations of a run, and the allocations of the N runs.
//! counts.py runs it and compares.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for developers")]
#![allow(unsafe_code, reason = "an allocator is unsafe to write")]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use _emcache::client::HotKeys;
use _emcache::cluster::routing::{NodeSpec, Routing};
use _emcache::pool::Address;
use _emcache::protocol::{
    Decoder, Dialect, Key, NEVER, NodeStats, Outgoing, Pipeline, Request, Shape,
};

use support::{Counting, Wire, answer, blocking, keys, pool::Fixture, set, with_get};

struct CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is forwarded to `System`; counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const WARM_UP: usize = 50;
const BURST: usize = 32;
static VALUE: [u8; 100] = [b'v'; 100];

/// The number of operations of a call, and the call.
type Case = (usize, Box<dyn FnMut()>);
type Make = fn() -> Case;

const CASES: [(&str, Make); 15] = [
    ("key", key),
    ("decode an item of 100", decode),
    ("get, pipeline, merged by 32", || pipeline_gets(32)),
    ("get, pipeline, one line each", || pipeline_gets(1)),
    ("set of 100, pipeline", pipeline_sets),
    ("get, connection, alone", || connection_gets(1)),
    ("get, connection, burst of 32", || connection_gets(BURST)),
    ("set of 100, connection, burst of 32", connection_sets),
    ("get, pool, alone", || pool_gets(1)),
    ("get, pool, burst of 32", || pool_gets(BURST)),
    ("get, synchronous, alone", synchronous_get),
    ("hot key, one of 1,000", hot_keys),
    ("route among 5 nodes", || route(5)),
    ("route among 64 nodes", || route(64)),
    ("route among 256 nodes", || route(256)),
];

fn key() -> Case {
    (1, Box::new(|| assert!(Key::parse(black_box(b"bench:000001:key")).is_ok())))
}

fn decode() -> Case {
    let text = answer(&keys(BURST), BURST, VALUE.len());
    let mut decoder = Decoder::default();
    let call = move || {
        let (mut pos, buf) = (0, black_box(text.as_bytes()));
        let shape = Shape::Retrieval { cas: false };
        while let Ok(Some((frame, len))) = decoder.next(&buf[pos..], shape) {
            black_box(frame);
            pos += len;
        }
        assert_eq!(pos, buf.len());
    };
    (BURST, Box::new(call))
}

fn pipeline_gets(merged: u32) -> Case {
    let keys = keys(BURST);
    let text = answer(&keys, merged as usize, VALUE.len());
    let (mut pipeline, mut out) =
        (Pipeline::new(Dialect::default(), merged, "node".into()), Outgoing::default());
    let mut stats = NodeStats::default();
    let call = move || {
        out.clear();
        for key in &keys {
            with_get(key, |get| pipeline.push(get, Counting::default(), NEVER, &mut out));
        }
        pipeline.close_line(&mut out);
        assert_eq!(
            pipeline.feed(black_box(text.as_bytes()), u64::MAX, 0, &mut stats).unwrap(),
            text.len()
        );
    };
    (BURST, Box::new(call))
}

fn pipeline_sets() -> Case {
    let (keys, text) = (keys(BURST), "STORED\r\n".repeat(BURST));
    let (mut pipeline, mut out) =
        (Pipeline::new(Dialect::default(), 32, "node".into()), Outgoing::default());
    let mut stats = NodeStats::default();
    let call = move || {
        out.clear();
        for key in &keys {
            let request = Request::Command(set(key, &VALUE));
            pipeline.push(&request, Counting::default(), NEVER, &mut out);
        }
        assert_eq!(
            pipeline.feed(black_box(text.as_bytes()), u64::MAX, 0, &mut stats).unwrap(),
            text.len()
        );
    };
    (BURST, Box::new(call))
}

fn connection_gets(count: usize) -> Case {
    let keys = keys(count);
    let text = answer(&keys, 32, VALUE.len());
    let mut wire = Wire::new(32);
    (count, Box::new(move || wire.gets(&keys, &text)))
}

fn connection_sets() -> Case {
    let (keys, text) = (keys(BURST), "STORED\r\n".repeat(BURST));
    let mut wire = Wire::new(32);
    (BURST, Box::new(move || wire.sets(&keys, &VALUE, &text)))
}

fn pool_gets(count: usize) -> Case {
    let keys = keys(count);
    let fixture = Fixture::new(&VALUE);
    (count, Box::new(move || fixture.gets(&keys)))
}

fn synchronous_get() -> Case {
    let mut fixture = blocking::Fixture::new("bench:000001:key".into(), VALUE.len());
    (1, Box::new(move || fixture.get()))
}

fn hot_keys() -> Case {
    let names: Vec<_> = (0..1000).map(|number| format!("bench:{number:06}:key")).collect();
    let mut hot = HotKeys::new(10, 0);
    let call = move || names.iter().for_each(|name| hot.note(black_box(name.as_bytes()), || 1));
    (1000, Box::new(call))
}

fn route(count: usize) -> Case {
    let address = |i| Address::Tcp { host: format!("10.0.0.{i}"), port: 11211 };
    let node = |i| Routing::Emcache.node(&address(i), &NodeSpec::default(), None);
    let router = Routing::Emcache.build(&(0..count).map(node).collect::<Vec<_>>());
    (1, Box::new(move || assert!(router.pick(black_box(b"bench:000001:key")).is_some())))
}

fn main() {
    let mut words = std::env::args().skip(1);
    let (name, times) = (words.next(), words.next());
    let chosen = CASES.iter().find(|(known, _)| Some(*known) == name.as_deref());
    let (Some((_, make)), Some(times)) = (chosen, times) else {
        for (name, _) in CASES {
            println!("{name}");
        }
        return;
    };
    let (each, mut call) = make();
    for _ in 0..WARM_UP {
        call();
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..times.parse().unwrap() {
        call();
    }
    println!("{each} {}", ALLOCATIONS.load(Ordering::Relaxed) - before);
}

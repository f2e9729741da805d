//! The core without Python: layers, one connection over a duplex, a pool over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod client;
mod connection;
mod failover;
mod fake_server;
mod layering;
mod migration;
mod order;
mod pool;
mod relocation;
mod support;

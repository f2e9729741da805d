//! The core without Python: layers, one connection over a duplex, a pool over real sockets.
mod connection;
mod layering;
mod pool;
mod support;
